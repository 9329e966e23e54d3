"""The measurements of a stream: first frame cold and warm, every pass for itself, running free with and without codec, memory over time."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mutoscope.commands.arithmetic import Step, arithmetic, chunk_bound, commit_flops, denoising_flops
from mutoscope.commands.roofline import COUNTED, measured_limits
from mutoscope.commands.streaming import PRECISIONS, Stream, StreamSettings, random_codec, random_model
from mutoscope.core.progress import Progress
from mutoscope.memory.policy import policy_name
from mutoscope.models.codec import state_bytes
from mutoscope.models.quantised import held_bytes
from mutoscope.models.transformer import VideoTransformer
from mutoscope.rollout.executor import Pass, Runner
from mutoscope.rollout.fused import Pair

WARM_STARTS, LOOKS, STEADY = 5, 10, 0.01


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Of some work, until the device has done it."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return 1e3 * (time.perf_counter() - began)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 5th and 95th percentile, and how many there were."""
    low, middle, high = np.percentile(values, [5, 50, 95])
    return {"p50": float(middle), "p5": float(low), "p95": float(high), "count": len(values)}


@dataclass
class Timed:
    """A runner that waits for the device around every forward and keeps its milliseconds, commits apart."""

    runner: Runner
    device: torch.device
    times: dict[str, list[float]] = field(default_factory=lambda: {"denoising": [], "commit": [], "fused": []})

    def run(self, passes: Sequence[Pass]) -> list[Tensor]:
        """As the runner does."""
        made: list[Tensor] = []
        kind = "fused" if isinstance(passes[0], Pair) else "commit" if all(item.commits for item in passes) else "denoising"
        self.times[kind].append(milliseconds(lambda: made.extend(self.runner.run(passes)), self.device))
        return made


def measure_stream(settings: StreamSettings, frames: int) -> dict:
    """Everything that `mutoscope bench RECIPE` reports, as plain data; `frames` chunks per measurement."""
    device = torch.device(settings.device)
    made: list[VideoTransformer] = []
    build_ms = milliseconds(lambda: made.append(random_model(settings)), device)
    model, (codec, codec_words) = made[0], random_codec(settings)
    stream = Stream(settings, model, codec)
    with Progress(4, "measuring") as bar, torch.inference_mode():
        first = {"build_ms": build_ms, **first_frames(stream, device)}
        bar.advance(note="first frames")
        fill(stream)
        codec_flops = count_codec(stream)
        single = pass_by_pass(stream, device, min(frames, 50))
        bar.advance(note="passes")
        without = run_free(stream, device, frames, lambda: None)
        bar.advance(note="without codec")
        looks: list[dict] = []
        again = run_free(stream, device, frames, stream.pictures, looks)
        bar.advance(note="with codec")
    return {
        "settings": plain_settings(settings, frames),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "codec": codec_words,
        "codec_gflops": codec_flops / 1e9,
        "first_frame": first,
        "passes": single,
        "free": {"without_codec": without, "with_codec": None if codec is None else again},
        "memory": memory_over_time(looks),
        **bounds(stream, without["chunk_ms"], codec_flops),
    }


def plain_settings(settings: StreamSettings, frames: int) -> dict:
    """What was measured."""
    run, config = settings.run, settings.run.model
    return {
        "recipe": run.name,
        "picture": f"{run.data.height}x{run.data.width}",
        "model": {name: getattr(config, name) for name in ("dim", "ffn_dim", "num_heads", "num_layers", "patch", "text_dim")},
        "chunk_frames": run.chunk_frames,
        "steps": settings.steps,
        "first_steps": settings.first_steps,
        "memory": f"{policy_name(settings.policy)} {settings.policy}",
        "precision": settings.precision,
        "device": settings.device,
        "rows": settings.rows,
        **asdict(settings.speed),
        "weights": settings.weights,
        "prompt_tokens": settings.text if config.text_dim else 0,
        "chunks_measured": frames,
        "threads": torch.get_num_threads(),
    }


def first_frames(stream: Stream, device: torch.device) -> dict[str, float | list[float]]:
    """Milliseconds from nothing to the first picture on the host (latents where there is no codec): the first of the process, and later."""

    def begin() -> None:
        stream.begin()
        stream.denoise()
        stream.pictures()

    cold, warm = milliseconds(begin, device), [milliseconds(begin, device) for _ in range(WARM_STARTS)]
    return {"cold_ms": cold, "warm_ms": float(np.median(warm)), "warm_all_ms": warm}


def fill(stream: Stream) -> None:
    """From the beginning until the memory is full, and two chunks more."""
    stream.begin()
    while not stream.filled:
        stream.advance()
    stream.advance()
    stream.advance()


def count_codec(stream: Stream) -> float:
    """Operations that decoding one chunk takes, as torch counts them; 0 without a codec."""
    if stream.codec is None:
        return 0.0
    stream.pictures()  # the first frame of a decoder's stream is another one
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        stream.pictures()
    return float(counter.get_total_flops())


def pass_by_pass(stream: Stream, device: torch.device, frames: int) -> dict[str, dict[str, float]]:
    """Milliseconds of single passes and of the codec, the device waited for around each."""
    holder = stream if stream.free is None else stream.free
    runner, codec = holder.runner, []
    timed = holder.runner = Timed(runner, device)
    for _ in range(frames):
        stream.denoise()
        if stream.codec is not None:
            codec.append(milliseconds(stream.pictures, device))
        stream.commit()
    holder.runner = runner
    found = {f"{kind}_ms": spread(times) for kind, times in timed.times.items() if times}
    return found | ({"codec_ms": spread(codec)} if codec else {})


def run_free(
    stream: Stream, device: torch.device, frames: int, pictures: Callable[[], object], looks: list[dict] | None = None
) -> dict[str, float]:
    """Chunks one after the other without waiting in between, but for what `pictures` brings to the host; `looks` notes the memory."""
    every = max(1, frames // LOOKS)
    wait(device)
    began = time.perf_counter()
    for index in range(frames):
        stream.denoise()
        pictures()
        stream.commit()
        if looks is not None and index % every == 0:
            looks.append(look(stream, device))
    wait(device)
    seconds = time.perf_counter() - began
    return {"chunk_ms": 1e3 * seconds / frames, "pixel_frames_per_second": stream.pixel_frames * frames / seconds}


def look(stream: Stream, device: torch.device) -> dict[str, int]:
    """Bytes held now: by memory and codec state, on the device, and the most that the process ever had on the host."""
    held = {"chunk": stream.chunks, "memory": stream.store.bytes, "codec_state": state_bytes(stream.codec_state)}
    host = {"host_peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    if device.type != "cuda":
        return held | host
    names = ("allocated_bytes.all.current", "allocated_bytes.all.peak", "reserved_bytes.all.current")
    figures = torch.cuda.memory_stats(device)
    free, total = torch.cuda.mem_get_info(device)
    return held | host | {name.split(".")[0] + "_" + name.split(".")[2]: figures[name] for name in names} | {"device_used": total - free}


def memory_over_time(looks: list[dict]) -> dict:
    """The looks, by how much the last of each figure differs from the first, and whether none grew by more than one per cent."""
    change = {name: looks[-1][name] / looks[0][name] - 1 for name in looks[0] if name != "chunk" and looks[0][name]}
    return {"looks": looks, "change": change, "constant": all(value <= STEADY for value in change.values())}


def bounds(stream: Stream, chunk_ms: float, codec_flops: float) -> dict:
    """The arithmetic of a chunk with a full memory, what this machine can do, and the share of it that was reached without the codec."""
    settings, model, config = stream.settings, stream.model, stream.model.config
    read = [replace(part.spec, spare=0) for part in stream.store.parts]  # a chunk that is opened ahead is read by nobody yet
    step = Step(settings.rows, stream.chunk, max(spec.slots for spec in read), settings.text)
    weights, cache = sum(map(held_bytes, model.parameters())), sum(spec.bytes(PRECISIONS[settings.precision]) for spec in read)
    figures = arithmetic(config, step, settings.steps, weights=weights, cache=cache, codec=codec_flops)
    limits = measured_limits(config, settings.rows * stream.chunk, torch.device(settings.device), PRECISIONS[settings.precision])
    least = chunk_bound(config, step, settings.steps, weights + cache, limits)
    flops = settings.steps * denoising_flops(config, step).total + commit_flops(config, step).total
    return {
        "arithmetic": figures,
        "machine": {"flops": limits.flops, "bandwidth": limits.bandwidth, "source": limits.source},
        "least_chunk_ms": 1e3 * least.seconds,
        "share_of_roofline": 1e3 * least.seconds / chunk_ms,
        "reached_flops": flops / (1e-3 * chunk_ms),
    }


def described(figures: dict) -> str:
    """The measurements as lines for people."""
    first, passes, free, memory = (figures[name] for name in ("first_frame", "passes", "free", "memory"))
    lines = [f"first frame: cold {first['cold_ms']:,.1f} ms, warm {first['warm_ms']:,.1f} ms (model made in {first['build_ms']:,.0f} ms)"]
    lines += [
        f"{name.removesuffix('_ms')}: {value['p50']:,.2f} ms [{value['p5']:,.2f}, {value['p95']:,.2f}]" for name, value in passes.items()
    ]
    for name in ("without_codec", "with_codec"):
        if free[name] is not None:
            words = name.replace("_", " ")
            lines.append(f"{words}: {free[name]['pixel_frames_per_second']:,.2f} pixel frames/s, {free[name]['chunk_ms']:,.1f} ms a chunk")
    lines.append(f"codec: {figures['codec']}, {figures['codec_gflops']:,.1f} GFLOP a chunk")
    last = memory["looks"][-1]
    held = ", ".join(f"{name} {value / 2**20:,.1f} MiB" for name, value in last.items() if name != "chunk")
    lines.append(
        f"memory: {held}; {'constant' if memory['constant'] else 'it grew'} over {last['chunk'] - memory['looks'][0]['chunk']} chunks"
    )
    least, share = figures["least_chunk_ms"], figures["share_of_roofline"]
    lines.append(f"this machine's roofline: {least:,.2f} ms a chunk, reached {share:.0%} of it ({figures['machine']['source']})")
    return "\n".join(lines)
