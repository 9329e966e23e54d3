"""The arithmetic behind the targets: operations and bytes of one pass by part, and the frames per second that they allow at most."""

from dataclasses import asdict, dataclass
from itertools import pairwise

from mutoscope.models.camera import GROUP
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
    """What a pass sees: players, frames of the chunk, frames read (its own included), tokens of the prompt."""

    rows: int
    chunk: int
    read: int
    text: int


@dataclass(frozen=True)
class PassFlops:
    """Floating-point operations of one pass; learned memories are not counted, nor what is no matrix product.

    projections  queries, keys, values and output of self-attention; with a camera its output too, and tokens turned by it
    attention    scores and sums over the frames that are read; with a camera twice
    text         cross-attention with its projections, and the embedding of the prompt
    feed_forward both products
    ends         patches in and out, time and action embeddings
    """

    projections: float
    attention: float
    text: float
    feed_forward: float
    ends: float

    @property
    def total(self) -> float:
        """All parts."""
        return sum(asdict(self).values())


def denoising_flops(config: TransformerConfig, step: Step) -> PassFlops:
    """A whole forward."""
    dim, layers, queries, read = config.dim, config.num_layers, _tokens(config, step, step.chunk), _tokens(config, step, step.read)
    square, times = 2 * dim * dim, config.attentions // layers
    branch, turn = _branch(config, queries)
    text = layers * _text_layer(config, step) + (_mlp(config.text_dim, dim, dim) * step.rows * step.text if config.text_dim else 0)
    return PassFlops(
        projections=layers * (4 * queries * square + branch + 4 * turn),
        attention=times * layers * 4 * queries * (read / step.rows) * dim,
        text=text,
        feed_forward=layers * queries * _mlp(dim, config.ffn_dim, dim),
        ends=_entrance(config, step) + queries * 2 * dim * config.latent.channels * config.patch**2,
    )


def commit_flops(config: TransformerConfig, step: Step) -> PassFlops:
    """A forward that ends with the last layer's attention: without its output, text and feed-forward, and without the head."""
    whole, dim, queries = denoising_flops(config, step), config.dim, _tokens(config, step, step.chunk)
    branch, turn = _branch(config, queries)
    return PassFlops(
        projections=whole.projections - 2 * queries * dim * dim - branch - turn,
        attention=whole.attention,
        text=whole.text - _text_layer(config, step),
        feed_forward=whole.feed_forward - queries * _mlp(dim, config.ffn_dim, dim),
        ends=_entrance(config, step),
    )


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


def _branch(config: TransformerConfig, queries: int) -> tuple[float, float]:
    """A camera branch's projection in one layer, and one of the four turns of its tokens."""
    return (0.0, 0.0) if config.camera is None else (2.0 * queries * config.dim**2, 2.0 * queries * config.dim * GROUP)


def _tokens(config: TransformerConfig, step: Step, frames: int) -> int:
    """Tokens of so many frames of all rows."""
    return step.rows * frames * config.grid.tokens


def _mlp(*widths: int) -> float:
    """Operations of linear layers in a row, per token."""
    return sum(2.0 * first * second for first, second in pairwise(widths))


def _text_layer(config: TransformerConfig, step: Step) -> float:
    """Cross-attention of one layer: queries and output of all tokens, keys and values of the prompt, and both products."""
    if not config.text_dim:
        return 0.0
    queries, text, square = _tokens(config, step, step.chunk), step.rows * step.text, 2 * config.dim**2
    return 2 * queries * square + 2 * text * square + 4 * queries * step.text * config.dim


def _entrance(config: TransformerConfig, step: Step) -> float:
    """Patches, noise levels and actions of the chunk."""
    frames, patch = step.rows * step.chunk, config.latent.channels * config.patch**2
    levels = _mlp(config.freq_dim, config.dim, config.dim) + _mlp(config.dim, 6 * config.dim)
    actions = _mlp(config.temporal_stride * config.action_dim, config.dim, config.dim) if config.embeds_actions else 0
    return _tokens(config, step, step.chunk) * _mlp(patch, config.dim) + frames * (levels + actions)
