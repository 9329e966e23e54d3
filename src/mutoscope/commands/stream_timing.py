"""The measurements of a stream: first frame cold and warm, every pass for itself, running free with and without codec, memory over time."""

import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mutoscope.commands.arithmetic import Step, arithmetic, chunk_bound, commit_flops, denoising_flops
from mutoscope.commands.roofline import COUNTED, measured_limits
from mutoscope.commands.streaming import PRECISIONS, Stream, StreamSettings, random_codec, random_model
from mutoscope.core.devices import DEVICES, Device
from mutoscope.core.errors import ConfigError
from mutoscope.core.progress import Progress
from mutoscope.memory.policy import policy_name
from mutoscope.models.codec import Codec, state_bytes
from mutoscope.models.quantised import held_bytes
from mutoscope.models.transformer import VideoTransformer
from mutoscope.rollout.executor import Pass, Runner
from mutoscope.rollout.fused import Pair

WARM_STARTS, SINGLE, LOOKS, STEADY = 5, 50, 10, 0.01
Only = Literal["both", "without-codec", "with-codec"]


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


@dataclass(frozen=True)
class Asked:
    """Which of the free runs; until when (`time.perf_counter`) chunks are begun; whether the process is fresh; and who hears of it.

    `heard` is given all figures so far after every part, and in free runs at every look at the memory, so that nothing is lost.
    """

    only: Only = "both"
    until: float = math.inf
    fresh: bool = True
    heard: Callable[[dict], None] = lambda figures: None

    def ways(self, codec: Codec | None) -> tuple[str, ...]:
        """The free runs, without codec first; a codec that is not there is not run, and asking for it alone is a ConfigError."""
        if self.only == "with-codec" and codec is None:
            raise ConfigError("there is no codec here to measure with: see what is said of it, or measure --only without-codec")
        wanted = ("without_codec", "with_codec") if self.only == "both" else (self.only.replace("-", "_"),)
        return tuple(name for name in wanted if codec is not None or name == "without_codec")


def measure_stream(settings: StreamSettings, frames: int, asked: Asked | None = None) -> dict:
    """Everything that `mutoscope bench RECIPE` reports, as plain data; `frames` chunks per measurement, fewer where time is up."""
    device, asked = torch.device(settings.device), asked or Asked()
    made: list[VideoTransformer] = []
    build_ms = milliseconds(lambda: made.append(random_model(settings)), device)
    model, (codec, codec_words) = made[0], random_codec(settings)
    ways, stream = asked.ways(codec), Stream(settings, model, codec)
    figures: dict[str, Any] = {"settings": plain_settings(settings, frames), "codec": codec_words}
    figures["parameters"] = sum(parameter.numel() for parameter in model.parameters())

    def tell(**more: object) -> None:
        figures.update(more)
        asked.heard(figures)

    with Progress(4 + len(ways), "measuring") as bar, torch.inference_mode():
        tell(first_frame={"build_ms": build_ms, **first_frames(stream, device, asked.fresh)})
        bar.advance(note="first frames")
        tell(filling=fill(stream, device))
        bar.advance(note="a full memory")
        codec_flops = count_codec(stream)
        tell(codec_gflops=codec_flops / 1e9, passes=pass_by_pass(stream, device, min(frames, SINGLE), asked.until))
        bar.advance(note="passes")
        free: dict[str, dict | None] = {"without_codec": None, "with_codec": None}
        for name in ways:
            looks: list[dict] = []
            for row in run_free(stream, device, frames, stream.pictures if name == "with_codec" else None, asked.until):
                looks.append(row.pop("look"))
                tell(free={**free, name: row}, memory=memory_over_time(looks))
            free = figures["free"]
            bar.advance(note=name.replace("_", " "))
        tell(**bounds(stream, (free["without_codec"] or {}).get("chunk_ms"), codec_flops))
        bar.advance(note="roofline")
    return figures


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


def first_frames(stream: Stream, device: torch.device, fresh: bool) -> dict[str, float | None | list[float]]:
    """Milliseconds from nothing to the first picture on the host (latents where there is no codec): the first time, and later.

    The first is "cold" in a fresh process alone: in one that has run another stream, libraries and kernels are loaded.
    """

    def begin() -> None:
        stream.begin()
        stream.denoise()
        stream.pictures()

    first, warm = milliseconds(begin, device), [milliseconds(begin, device) for _ in range(WARM_STARTS)]
    return {"first_ms": first, "cold_ms": first if fresh else None, "warm_ms": float(np.median(warm)), "warm_all_ms": warm}


def fill(stream: Stream, device: torch.device) -> dict[str, float | list[float]]:
    """From the beginning until the memory is full, and two chunks more: milliseconds of each, and what a full memory prepares.

    Graphs are captured and static steps compiled at that chunk, number `full_at_chunk` from 0: whoever plays waits there once.
    """
    stream.begin()
    times = []
    while not stream.filled:
        times.append(milliseconds(stream.advance, device))
    times += [milliseconds(stream.advance, device) for _ in range(2)]
    prepared = {"first_full_ms": times[-2], "next_full_ms": times[-1], "prepare_ms": max(0.0, times[-2] - times[-1])}
    return {"full_at_chunk": len(times) - 2, **prepared, "chunks_ms": times}


def count_codec(stream: Stream) -> float:
    """Operations that decoding one chunk takes, as torch counts them; 0 without a codec."""
    if stream.codec is None:
        return 0.0
    stream.pictures()  # the first frame of a decoder's stream is another one
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        stream.pictures()
    return float(counter.get_total_flops())


def pass_by_pass(stream: Stream, device: torch.device, frames: int, until: float = math.inf) -> dict[str, dict[str, float]]:
    """Milliseconds of single passes and of the codec, the device waited for around each."""
    holder = stream if stream.free is None else stream.free
    runner, codec = holder.runner, []
    timed = holder.runner = Timed(runner, device)
    for _ in range(frames):
        stream.denoise()
        if stream.codec is not None:
            codec.append(milliseconds(stream.pictures, device))
        stream.commit()
        if time.perf_counter() > until:
            break
    holder.runner = runner
    found = {f"{kind}_ms": spread(times) for kind, times in timed.times.items() if times}
    return found | ({"codec_ms": spread(codec)} if codec else {})


def run_free(
    stream: Stream, device: torch.device, frames: int, pictures: Callable[[], object] | None, until: float = math.inf
) -> Iterator[dict[str, Any]]:
    """Chunks one after the other without waiting in between, but for what `pictures` brings to the host.

    Yields what was reached at every look at the memory, of which there are about LOOKS; only the last, which waits for the device, is
    `finished`. Before it, the host of a stream without pictures may be some chunks ahead of its device.
    """
    every, done, ended = max(1, frames // LOOKS), 0, False
    wait(device)
    began = time.perf_counter()
    while not ended:
        stream.denoise()
        if pictures is not None:
            pictures()
        stream.commit()
        done += 1
        ended = done == frames or time.perf_counter() > until
        if ended:
            wait(device)
        if ended or done % every == 1 % every:
            seconds = time.perf_counter() - began
            rate = {"chunk_ms": 1e3 * seconds / done, "pixel_frames_per_second": stream.pixel_frames * done / seconds}
            yield {**rate, "chunks": done, "finished": done == frames, "look": look(stream, device)}


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


def bounds(stream: Stream, chunk_ms: float | None, codec_flops: float) -> dict:
    """The arithmetic of a chunk with a full memory, what this machine can do, and the share of it that was reached without the codec.

    Shares are of what was measured here just now and, where the device's data sheet is known, of its; None where a chunk was not measured.
    """
    settings, model, config = stream.settings, stream.model, stream.model.config
    read = [replace(part.spec, spare=0) for part in stream.store.parts]  # a chunk that is opened ahead is read by nobody yet
    step = Step(settings.rows, stream.chunk, max(spec.slots for spec in read), settings.text)
    weights, cache = sum(map(held_bytes, model.parameters())), sum(spec.bytes(PRECISIONS[settings.precision]) for spec in read)
    figures = arithmetic(config, step, settings.steps, weights=weights, cache=cache, codec=codec_flops)
    limits = measured_limits(config, settings.rows * stream.chunk, torch.device(settings.device), PRECISIONS[settings.precision])
    least = chunk_bound(config, step, settings.steps, weights + cache, limits)
    flops = settings.steps * denoising_flops(config, step).total + commit_flops(config, step).total
    sheet, reached = data_sheet(torch.device(settings.device)), None if chunk_ms is None else flops / (1e-3 * chunk_ms)
    return {
        "arithmetic": figures,
        "machine": {"flops": limits.flops, "bandwidth": limits.bandwidth, "source": limits.source},
        "least_chunk_ms": 1e3 * least.seconds,
        "share_of_roofline": None if chunk_ms is None else 1e3 * least.seconds / chunk_ms,
        "reached_flops": reached,
        "data_sheet": None if sheet is None else {"device": sheet.name, "flops": sheet.flops, "bandwidth": sheet.bandwidth},
        "share_of_data_sheet": None if sheet is None or reached is None else reached / sheet.flops,
        "machine_share_of_data_sheet": None if sheet is None else limits.flops / sheet.flops,
    }


def data_sheet(device: torch.device) -> Device | None:
    """What its maker says of dense bfloat16 products, of a CUDA device that core.devices knows by its name."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower().replace(" ", "-")
    return next((known for known in DEVICES.values() if known.name in name), None)


def described(figures: dict) -> str:
    """The measurements as lines for people."""
    first, passes, free, memory = (figures[name] for name in ("first_frame", "passes", "free", "memory"))
    begun, filling = "cold" if first["cold_ms"] is not None else "the first of this stream", figures["filling"]
    lines = [
        f"first frame: {begun} {first['first_ms']:,.1f} ms, warm {first['warm_ms']:,.1f} ms (model made in {first['build_ms']:,.0f} ms)"
    ]
    lines.append(
        f"memory full at chunk {filling['full_at_chunk']}: that one took {filling['first_full_ms']:,.1f} ms, the next "
        f"{filling['next_full_ms']:,.1f}: {filling['prepare_ms']:,.0f} ms of capturing or compiling, once"
    )
    lines += [
        f"{name.removesuffix('_ms')}: {value['p50']:,.2f} ms [{value['p5']:,.2f}, {value['p95']:,.2f}]" for name, value in passes.items()
    ]
    for name, row in free.items():
        if row is not None:
            ended = "" if row["finished"] else f" (time was up after {row['chunks']} chunks)"
            rate = f"{row['pixel_frames_per_second']:,.2f} pixel frames/s, {row['chunk_ms']:,.1f} ms a chunk"
            lines.append(f"{name.replace('_', ' ')}: {rate}{ended}")
    lines.append(f"codec: {figures['codec']}, {figures['codec_gflops']:,.1f} GFLOP a chunk")
    last = memory["looks"][-1]
    held = ", ".join(f"{name} {value / 2**20:,.1f} MiB" for name, value in last.items() if name != "chunk")
    lines.append(
        f"memory: {held}; {'constant' if memory['constant'] else 'it grew'} over {last['chunk'] - memory['looks'][0]['chunk']} chunks"
    )
    lines.append(f"this machine's roofline: {figures['least_chunk_ms']:,.2f} ms a chunk ({figures['machine']['source']})")
    if figures["share_of_roofline"] is not None:
        lines[-1] += f", reached {figures['share_of_roofline']:.0%} of it"
    if figures["share_of_data_sheet"] is not None:
        lines[-1] += f", and {figures['share_of_data_sheet']:.0%} of the products of {figures['data_sheet']['device']}'s data sheet"
    return "\n".join(lines)
