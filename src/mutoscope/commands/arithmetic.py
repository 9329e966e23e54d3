"""The arithmetic behind the targets: operations and bytes of one pass by part, and the frames per second that they allow at most."""

from dataclasses import asdict, dataclass
from typing import Literal

from mutoscope.models.arithmetic import Going, PassFlops, Reach, parts
from mutoscope.models.transformer import TransformerConfig


@dataclass(frozen=True)
class DeviceLimits:
    """What a device can do at best: dense matrix products in FLOP/s, memory in bytes/s, and who says so."""

    flops: float
    bandwidth: float
    source: str


DEVICES: dict[str, DeviceLimits] = {
    "H200": DeviceLimits(989e12, 4.8e12, "NVIDIA's datasheet of the H200 SXM: dense bf16 matrix products, HBM3e"),
    "H200, large products": DeviceLimits(790e12, 4.8e12, "what large bf16 products reach there in practice; the bound in issue 4 is of it"),
}


@dataclass(frozen=True)
class Step:
    """What a pass of a session sees: players, frames of the chunk, frames read (its own included), tokens of the prompt, read before."""

    rows: int
    chunk: int
    read: int
    text: int

    def going(self, config: TransformerConfig, serves: Literal["velocity", "cache"]) -> Going:
        """The forward."""
        return Going(config, self.rows, self.chunk, Reach(self.chunk * self.read), self.text, serves, told="read")


def denoising_flops(config: TransformerConfig, step: Step) -> PassFlops:
    """A whole forward."""
    return parts(step.going(config, "velocity"))


def commit_flops(config: TransformerConfig, step: Step) -> PassFlops:
    """A forward that ends with the last layer's attention: without its output, text and feed-forward, and without the head."""
    return parts(step.going(config, "cache"))


@dataclass(frozen=True)
class Bound:
    """The least seconds that a chunk can take, and what they follow from: operations over the peak, bytes over the bandwidth."""

    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The larger one: both go on at once at best."""
        return max(self.compute_s, self.memory_s)


def chunk_bound(config: TransformerConfig, step: Step, steps: int, moved: float, limits: DeviceLimits) -> Bound:
    """Of `steps` denoising passes and a commit, each of which reads `moved` bytes of weights and cache."""
    flops = steps * denoising_flops(config, step).total + commit_flops(config, step).total
    return Bound(flops / limits.flops, (steps + 1) * moved / limits.bandwidth)


def arithmetic(config: TransformerConfig, step: Step, steps: int, *, weights: int, cache: int, codec: float = 0.0) -> dict:
    """Everything as plain data; `weights` and `cache` in bytes, `codec` in operations a chunk. Frames per second are pixel frames."""
    denoising, commit = denoising_flops(config, step), commit_flops(config, step)
    rows = {}
    for name, limits in DEVICES.items():
        bound = chunk_bound(config, step, steps, weights + cache, limits)
        frames = step.chunk * config.temporal_stride * step.rows
        rows[name] = {**asdict(limits), "compute_ms": 1e3 * bound.compute_s, "memory_ms": 1e3 * bound.memory_s}
        rows[name]["pixel_frames_per_second"] = frames / bound.seconds
        rows[name]["with_codec_per_second"] = frames / (bound.seconds + codec / limits.flops)
    return {
        "tokens_per_frame": config.grid.tokens,
        "reads_frames": step.read,
        "denoising_gflops": _giga(denoising),
        "commit_gflops": _giga(commit),
        "chunk_gflops": (steps * denoising.total + commit.total) / 1e9,
        "codec_gflops": codec / 1e9,
        "bytes_per_pass": {"weights": weights, "cache": cache},
        "bounds": rows,
    }


def described(figures: dict, steps: int) -> str:
    """The arithmetic as lines for people."""
    parts, total = figures["denoising_gflops"], figures["denoising_gflops"]["total"]
    shares = ", ".join(f"{name.replace('_', '-')} {value:,.1f} ({value / total:.0%})" for name, value in parts.items() if name != "total")
    moved = figures["bytes_per_pass"]
    lines = [
        f"{figures['tokens_per_frame']:,} tokens a frame, {figures['reads_frames']} frames read",
        f"one denoising pass: {total:,.1f} GFLOP: {shares}",
        f"one commit: {figures['commit_gflops']['total']:,.1f} GFLOP; {steps} steps and a commit: {figures['chunk_gflops']:,.1f}",
        f"decoding the chunk: {figures['codec_gflops']:,.1f} GFLOP" if figures["codec_gflops"] else "decoding the chunk: not counted",
        f"read per pass: {moved['weights'] / 1e6:,.1f} MB of weights, {moved['cache'] / 1e6:,.1f} MB of cache",
    ]
    for name, bound in figures["bounds"].items():
        limits = f"{bound['flops'] / 1e12:,.0f} TFLOP/s, {bound['bandwidth'] / 1e12:.1f} TB/s"
        times = f"{bound['compute_ms']:.3g} ms of products, {bound['memory_ms']:.3g} ms of reading"
        rates = f"at most {bound['pixel_frames_per_second']:,.1f} pixel frames/s without codec"
        rates += f", {bound['with_codec_per_second']:,.1f} with it" if figures["codec_gflops"] else ""
        lines.append(f"{name} ({limits}): {times} a chunk: {rates}")
    return "\n".join(lines)


def _giga(flops: PassFlops) -> dict[str, float]:
    return {**{name: value / 1e9 for name, value in asdict(flops).items()}, "total": flops.total / 1e9}
