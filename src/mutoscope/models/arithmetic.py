"""What a pass of the transformer costs, from its config alone: parameters, FLOPs, and the bytes that autograd keeps for the backward pass.

The sums go through models.transformer.Block line by line; tests compare them with what torch counts and keeps. Nothing is allocated.
Learned memories beside the cache are in the parameters and in nothing else here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Literal

from mutoscope.memory.ledger import ChunkSources
from mutoscope.models.camera import GROUP
from mutoscope.models.groups import chunk_runs, reads_of
from mutoscope.models.recall import recall_layer
from mutoscope.models.transformer import TransformerConfig

STATISTIC = 4  # bytes of a mean, a deviation or a softmax's sum: they are float32 in every precision
ATTENTION_BACKWARD = 2.5  # five products over two: the scores are computed again (FlashAttention-2, arXiv 2307.08691)


@dataclass(frozen=True)
class Numerics:
    """Bytes of numbers in a pass.

    wide    of the residual stream and of norms, which autocast leaves in float32
    narrow  of what enters matrix products and attention
    norm    tensors that the norm of queries or keys keeps: its input, and on processors, where it is no single kernel, its output unscaled
    casts   copies of an attention layer's input: autocast makes one for each of the queries, keys and values
    """

    wide: int
    narrow: int
    norm: int
    casts: int

    @property
    def weight_casts(self) -> int:
        """Bytes per parameter of the copies that autocast keeps until the backward pass is over; none where nothing is cast."""
        return 0 if self.narrow == self.wide else self.narrow


FP32_ON_CPU = Numerics(wide=4, narrow=4, norm=2, casts=1)
FP32_ON_CUDA = replace(FP32_ON_CPU, norm=1)
BF16_ON_CUDA = Numerics(wide=4, narrow=2, norm=1, casts=3)


@dataclass(frozen=True)
class Reach:
    """Who reads how much in an attention layer, per clip.

    pairs     frames that ask times frames that each of them reads
    gathered  frames whose keys and values are copied so that chunks can read them at once; 0: they are read where they lie
    biased    those of the gathered ones that stand in a group with something added to its logits
    widest    the most that one call of attention gathers
    """

    pairs: int
    gathered: int = 0
    biased: int = 0
    widest: int = 0


def whole_clip(frames: int) -> Reach:
    """Every frame reads every frame."""
    return Reach(frames * frames)


def gathered(chunks: Sequence[ChunkSources], tokens: int) -> Reach:
    """Chunks on gathered keys, as models.groups cuts them; one by one where the past changes between them."""
    changes = any(chunk.blends or chunk.sifts for chunk in chunks)
    runs = [[chunk] for chunk in chunks] if changes else chunk_runs(chunks, tokens)
    pairs = copied = biased = widest = 0
    for run in runs:
        columns, length = max(map(reads_of, run)), run[0].chunk.length
        frames = len(run) * columns
        told = any(source.bias for chunk in run for source in chunk.sources) or any(reads_of(chunk) < columns for chunk in run)
        pairs, copied, widest = pairs + frames * length, copied + frames, max(widest, frames)
        biased += frames if told else 0
    return Reach(pairs, copied, biased, widest)


def masked(chunks: Sequence[ChunkSources]) -> Reach:
    """The same chunks by one kernel that masks: nothing is copied, and hidden keys cost nothing."""
    return Reach(sum(reads_of(chunk) * chunk.chunk.length for chunk in chunks))


@dataclass(frozen=True)
class Going:
    """One forward of a transformer over `rows` clips of `frames` frames, with prompts of `text` tokens.

    What comes after it: "velocity" the whole; of "memory" (a clean half) nothing but the keys and values that it leaves; and "cache" stops
    after the last layer's attention (a commit). `passes`: how often it is made; FLOPs are those of all of them, bytes those of one.
    The prompt comes as its "embedding", as in training, or was "read" before (VideoTransformer.read_text): its keys and values are there.
    """

    config: TransformerConfig
    rows: int
    frames: int
    reach: Reach
    text: int = 0
    serves: Literal["velocity", "memory", "cache"] = "velocity"
    passes: float = 1.0
    told: Literal["embedding", "read"] = "embedding"

    @property
    def embedded(self) -> int:
        """Frames of all clips."""
        return self.rows * self.frames

    @property
    def tokens(self) -> int:
        """Tokens of all clips."""
        return self.embedded * self.config.grid.tokens

    @property
    def prompt(self) -> int:
        """Text tokens of all clips; a model without text reads none."""
        return self.rows * self.text if self.config.text_dim else 0

    @property
    def cells(self) -> int:
        """Numbers that a token is cut from."""
        return self.config.latent.channels * self.config.patch**2

    @property
    def copied(self) -> int:
        """Numbers of the gathered keys, and as many of the values."""
        return self.rows * self.reach.gathered * self.config.grid.tokens * self.config.dim


@dataclass(frozen=True)
class Parameters:
    """How many a transformer has: all, those of one block, and those in matrices of the blocks, as (inputs + outputs) summed over them."""

    total: int
    block: int
    matrix_sides: int


@lru_cache(maxsize=64)
def parameters(config: TransformerConfig) -> Parameters:
    """Of models.transformer.VideoTransformer, module by module."""
    dim, cells = config.dim, config.latent.channels * config.patch**2
    attention, sides = 4 * _linear(dim, dim) + 2 * dim, 4 * 2 * dim + 2 * (dim + config.ffn_dim)
    branch = 0 if config.camera is None else _linear(dim, dim)
    sides += 2 * dim if branch else 0
    block = branch + attention + _linear(dim, config.ffn_dim) + _linear(config.ffn_dim, dim) + 6 * dim
    if config.text_dim:
        block, sides = block + attention + 2 * dim, sides + 4 * 2 * dim
    if config.recall is not None:
        block += sum(parameter.numel() for parameter in recall_layer(config.recall, config.num_heads, config.head_dim).parameters())
    around = _linear(cells, dim) + _linear(config.freq_dim, dim) + _linear(dim, dim) + _linear(dim, 6 * dim)
    around += _linear(dim, cells) + 2 * dim
    if config.text_dim:
        around += _linear(config.text_dim, dim) + _linear(dim, dim)
    if config.embeds_actions:
        around += _linear(config.temporal_stride * config.action_dim, dim) + _linear(dim, dim) + dim
    if config.travel:
        around += 2 * config.action_dim
    return Parameters(around + config.num_layers * block, block, config.num_layers * sides)


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a forward, of its inputs' gradients and of its weights'; a product and a sum are two."""

    forward: float
    inputs: float
    weights: float

    @property
    def backward(self) -> float:
        """Where all weights learn."""
        return self.inputs + self.weights


@dataclass(frozen=True)
class PassFlops:
    """Floating-point operations of one forward by part; learned memories are not counted, nor what is no matrix product.

    projections  queries, keys, values and output of self-attention; with a camera its output too, and tokens turned by it
    attention    scores and sums over the frames that are read; with a camera twice
    text         cross-attention with its projections; of a prompt that was not read before also its embedding, keys and values
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


@lru_cache(maxsize=4096)
def parts(going: Going) -> PassFlops:
    """Of one of its passes, as torch counts them. A commit's last layer ends with its attention."""
    layers, commits = going.config.num_layers, going.serves == "cache"
    square, (branch, turn), whole = _square(going), _branch(going), layers - commits
    crossing = 2 * (square + _telling(going)) + _asking(going)
    return PassFlops(
        projections=layers * (4 * square + branch + 4 * turn) - commits * (square + branch + turn),
        attention=layers * _attending(going),
        text=whole * crossing + sum(_reading(going)) if going.prompt else 0,
        feed_forward=whole * _feeding(going),
        ends=sum(_entering(going)) + (not commits) * _head(going),
    )


@lru_cache(maxsize=4096)
def flops(going: Going) -> Flops:
    """Matrix products and attention of all its passes, as torch counts them."""
    layers, last = going.config.num_layers, going.serves != "velocity"  # the last layer of others matters for its keys and values alone
    square, (branch, turn), seen = _square(going), _branch(going), layers - last
    told, rest = 2 * square, 2 * square + _feeding(going) + branch  # keys and values; queries, output and feed-forward
    attention, first, second = _attending(going), _entering(going)[0], _entering(going)[1] + _head(going) * (not last)
    if going.prompt:
        rest, attention = rest + 2 * (square + _telling(going)), attention + _asking(going)
        first, second = first + _reading(going)[0], second + _reading(going)[1]
    products = layers * told + seen * rest
    inputs = products + seen * ATTENTION_BACKWARD * attention + second + 2 * (layers + seen) * turn
    weights = products + first + second
    return Flops(going.passes * parts(going).total, going.passes * inputs, going.passes * weights)


def _square(going: Going) -> int:
    """FLOPs of one projection of all tokens from the model's width to itself."""
    return 2 * going.tokens * going.config.dim**2


def _telling(going: Going) -> int:
    """The same of the prompt's tokens, unless it was read before."""
    return 2 * going.prompt * going.config.dim**2 * (going.told == "embedding")


def _attending(going: Going) -> int:
    """FLOPs of self-attention in one layer: scores and sums, with a camera twice."""
    config = going.config
    return (config.attentions // config.num_layers) * 4 * going.rows * going.reach.pairs * config.grid.tokens**2 * config.dim


def _asking(going: Going) -> int:
    """FLOPs of the scores and sums over the prompt in one layer."""
    return 4 * going.tokens * going.config.dim * going.text


def _feeding(going: Going) -> int:
    """FLOPs of one feed-forward."""
    return 4 * going.tokens * going.config.dim * going.config.ffn_dim


def _head(going: Going) -> int:
    """FLOPs of the way back to patches."""
    return 2 * going.tokens * going.config.dim * going.cells


def _branch(going: Going) -> tuple[int, int]:
    """FLOPs of a camera branch's projection in one layer, and of one of the four turns of its tokens by cameras, which learn nothing."""
    tokens, dim = (0, 0) if going.config.camera is None else (going.tokens, going.config.dim)
    return 2 * tokens * dim * dim, 2 * tokens * dim * GROUP


def _entering(going: Going) -> tuple[int, int]:
    """FLOPs of the products that no gradient leaves, since data enter there, and of those after them up to the blocks."""
    config, dim, frames = going.config, going.config.dim, going.embedded
    first = frames * config.freq_dim * dim + going.tokens * going.cells * dim
    first += frames * config.temporal_stride * config.action_dim * dim * config.embeds_actions
    return 2 * first, 2 * frames * (7 + config.embeds_actions) * dim * dim


def _reading(going: Going) -> tuple[int, int]:
    """The same two of the prompt's embedding, of which nothing is left to do for one that was read before."""
    return 2 * going.prompt * going.config.text_dim * going.config.dim * (going.told == "embedding"), _telling(going)


@dataclass(frozen=True)
class Kept:
    """Bytes that wait for a backward pass: of every layer, of keys and values that were copied, and of what stands around the layers."""

    layers: int
    copies: int
    around: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers + self.copies + self.around

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(self.layers + other.layers, self.copies + other.copies, self.around + other.around)


def kept(going: Going, numerics: Numerics) -> Kept:
    """Everything that autograd keeps of a forward."""
    layers, last = going.config.num_layers, going.serves == "memory"
    seen = layers - last
    ends = _told_bytes(going, numerics) if last else 0
    return Kept(seen * layer_bytes(going, numerics) + ends, seen * copy_bytes(going, numerics), around_bytes(going, numerics))


def layer_bytes(going: Going, numerics: Numerics) -> int:
    """What one block keeps, but for copied keys and values."""
    config, wide, narrow, dim = going.config, numerics.wide, numerics.narrow, going.config.dim
    attended = 3 if going.reach.gathered else 4  # queries, what they read and that joined again; or queries, keys, values, what they read
    turned = narrow if config.travel else 0  # places in the world are learned, so that what was turned by them is kept
    asking = (numerics.casts > 1) * narrow + numerics.norm * wide + turned + attended * narrow
    rest = 4 * wide + narrow  # attention's output, the second norm's input and output, that modulated, the feed-forward's output
    total = going.tokens * ((asking + rest) * dim + (3 + config.num_heads) * STATISTIC + 2 * narrow * config.ffn_dim)
    if config.camera is not None:  # the same once more: queries (keys, values), what they read, and that turned back
        total += going.tokens * ((attended + (not going.reach.gathered)) * narrow * dim + config.num_heads * STATISTIC)
    total += going.embedded * 7 * dim * wide  # what modulates: the sum of six, and 1 + the second scale
    return total + _told_bytes(going, numerics) + (_crossing(going, numerics) if going.prompt else 0)


def _told_bytes(going: Going, numerics: Numerics) -> int:
    """The way to keys and values: input and output of the first norm, that modulated by 1 + scale, and the keys' norm."""
    dim, wide, narrow = going.config.dim, numerics.wide, numerics.narrow
    turned = narrow if going.config.travel else 0
    per_channel = 2 * wide + min(2, numerics.casts) * narrow + numerics.norm * wide + turned
    return going.tokens * (per_channel * dim + 3 * STATISTIC) + going.embedded * dim * wide


def _crossing(going: Going, numerics: Numerics) -> int:
    """Cross-attention: its norm's input and output, the queries' norm, queries and what they read; and the text's keys and values."""
    config, wide, narrow = going.config, numerics.wide, numerics.narrow
    asking = (wide + narrow + numerics.norm * wide + 2 * narrow) * config.dim + (3 + config.num_heads) * STATISTIC
    telling = (numerics.norm * wide + 2 * narrow) * config.dim + STATISTIC
    return going.tokens * asking + going.prompt * telling


def copy_bytes(going: Going, numerics: Numerics) -> int:
    """Keys and values that one block copies for its chunks, and what is added to their logits."""
    attended = going.config.attentions // going.config.num_layers
    return attended * (2 * going.copied * numerics.narrow + going.reach.biased * going.config.grid.tokens * numerics.wide)


def around_bytes(going: Going, numerics: Numerics) -> int:
    """What is kept outside the blocks: patches, the way to the modulation, rotations, text, and the head with the loss."""
    config, wide, narrow, dim = going.config, numerics.wide, numerics.narrow, going.config.dim
    per_frame = (config.freq_dim + 3 * dim) * narrow + dim * wide
    if config.embeds_actions:
        per_frame += (config.temporal_stride * config.action_dim + 2 * dim) * narrow + 1
    total = going.embedded * per_frame + going.tokens * going.cells * narrow
    total += going.prompt * (config.text_dim + 3 * dim) * narrow
    total += 2 * going.tokens * config.head_dim * wide if config.travel else 0
    if going.serves == "velocity":
        head = (2 * wide + narrow) * dim + 2 * STATISTIC + going.cells * wide
        total += going.tokens * head + going.embedded * dim * wide
        total += 0 if config.travel else going.tokens // going.rows * config.head_dim * wide  # rotations, which both halves share
    return total


def context_bytes(going: Going, numerics: Numerics) -> int:
    """Keys, turned and as they were, and values of every layer of a clean half, which the noisy half reads."""
    seen = 0 if going.config.camera is None else numerics.wide + numerics.narrow  # cameras know no position: one key
    return going.config.num_layers * going.tokens * going.config.dim * (2 * numerics.wide + numerics.narrow + seen)


def forward_bytes(going: Going, numerics: Numerics) -> int:
    """The most that a forward without gradient holds: the stream, and within a block its attention or its feed-forward."""
    dim, wide, narrow = going.config.dim, numerics.wide, numerics.narrow
    attention = going.tokens * dim * (3 * wide + 4 * narrow) + _gather_bytes(going, numerics)
    attention += going.tokens * dim * 4 * narrow if going.config.camera is not None else 0
    feed_forward = going.tokens * (2 * going.config.ffn_dim * narrow + dim * narrow)
    return going.tokens * dim * 2 * wide + max(attention, feed_forward)


def backward_bytes(going: Going, numerics: Numerics) -> int:
    """The most that the backward pass holds beside what was kept, which shrinks as it goes: gradients of the stream and of copies."""
    stream = 3 * going.tokens * going.config.dim * numerics.wide
    return stream + _gather_bytes(going, numerics)


def _gather_bytes(going: Going, numerics: Numerics) -> int:
    """Frames of both halves side by side, for keys and values, and what the widest group of chunks picks from them."""
    if not going.reach.gathered:
        return 0
    channels = going.config.grid.tokens * going.config.dim * (numerics.wide + numerics.narrow)
    return (2 * going.embedded + going.rows * going.reach.widest) * channels
