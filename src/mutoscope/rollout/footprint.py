"""What a streaming session holds and computes, codec included, from its config alone."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from mutoscope.core.devices import BANDWIDTH_SHARE, PLAYING_SHARE, Device
from mutoscope.core.proposals import Cost, Option, Step, propose
from mutoscope.memory.policy import DeepSink, PolicyConfig, RecencyBias, RollingWindow, SinkWindow, Window
from mutoscope.models.arithmetic import BF16_ON_CUDA, FP32_ON_CUDA, Going, Reach, flops, forward_bytes, parameters
from mutoscope.models.codec import Codec
from mutoscope.models.decoders import TILES, computing_in
from mutoscope.models.live_bytes import decoding_bytes
from mutoscope.models.tiled_codec import SizedCodec, TiledCodec, Tiles
from mutoscope.models.transformer import TransformerConfig

PLAIN = replace(BF16_ON_CUDA, wide=2)  # all of a session in bfloat16, nothing cast


@dataclass(frozen=True)
class Held:
    """Bytes of decoding one frame: on the device; states that lie on the host; what of them goes there and back."""

    device: int
    host: int = 0
    moved: int = 0


@dataclass(frozen=True)
class Decoder:
    """What decoding one frame takes: operations, and bytes in float32 (`wide`) and in bfloat16 (`narrow`).

    `asked` is what makes `mutoscope play` decode so, "" where it does of itself.
    """

    name: str
    flops: float
    wide: Held
    narrow: Held
    asked: str = ""


def whole_decoder(name: str, codec: Codec, weights: torch.nn.Module, asked: str = "") -> Decoder:
    """A frame at a time; `codec` with its `weights` on the meta device, where they are left in bfloat16."""

    def held(dtype: torch.dtype) -> Held:
        return Held(decoding_bytes(codec, computing_in(weights, dtype)).total)

    return Decoder(name, decoding_flops(codec), held(torch.float32), held(torch.bfloat16), asked)


def tiled_decoder(codec: SizedCodec, weights: torch.nn.Module, tiles: Tiles = TILES) -> Decoder:
    """Tile by tile, with the states of the others on the host."""
    tiled, latent = TiledCodec(codec, tiles, keep="host"), codec.latent
    pixels = 3 * latent.height * latent.width * codec.spatial_stride**2 * codec.temporal_stride * torch.float32.itemsize

    def held(dtype: torch.dtype) -> Held:
        taken = decoding_bytes(tiled.tile, computing_in(weights, dtype))
        return Held(taken.total + pixels, tiled.num_tiles * taken.state, 2 * tiled.num_tiles * taken.state)

    name = f"{tiled.num_tiles} tiles of {tiles.height}x{tiles.width} cells"
    asked = f"--decoder tiles={tiles.height}x{tiles.width},{tiles.overlap}"
    return Decoder(name, tiled.num_tiles * decoding_flops(tiled.tile), held(torch.float32), held(torch.bfloat16), asked)


def decoding_flops(codec: Codec) -> float:
    """Of one frame in the middle of a stream, counted on the meta device."""
    latent, state = codec.latent, codec.start_decoding(1)
    frame = torch.empty(1, 1, latent.channels, latent.height, latent.width, device="meta")
    with torch.no_grad():
        _, state = codec.decode_next(frame, state)
        with FlopCounterMode(display=False) as counter:
            codec.decode_next(frame, state)
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class Playing:
    """A session: `rows` players, chunks of `chunk` frames, `steps` denoising passes and a commit each.

    weight_bytes and cache_bytes per number; `narrow`: computed in bfloat16, the codec too, as `mutoscope play --precision bf16` does.
    `decoders` are those that it may have, the first one its own.
    """

    config: TransformerConfig
    policy: PolicyConfig
    decoders: tuple[Decoder, ...]
    chunk: int
    steps: int
    rows: int = 1
    text: int = 0
    weight_bytes: int = 4
    cache_bytes: int = 4
    narrow: bool = False

    @property
    def parts(self) -> dict[str, float]:
        """Bytes on the device, by name."""
        spec = self.config.cache(self.policy, self.chunk, self.rows)
        dtypes = {4: torch.float32, 2: torch.bfloat16, 1: torch.float8_e4m3fn}
        return {
            "weights": parameters(self.config).total * self.weight_bytes,
            "memory": sum(part.bytes(dtypes[self.cache_bytes]) for part in spec.parts),
            "a pass": forward_bytes(self._going("velocity"), PLAIN if self.narrow else FP32_ON_CUDA),
            "codec": self.rows * self.held.device,
            "prompts": self._prompt_bytes,
        }

    @property
    def _prompt_bytes(self) -> int:
        """Keys and values of the prompt and of the negative one in every layer, which a session reads once."""
        words = self.text if self.config.text_dim else 0
        return 2 * self.rows * self.config.num_layers * 2 * words * self.config.dim * (2 if self.narrow else 4)

    @property
    def held(self) -> Held:
        """Bytes of its decoder."""
        return self.decoders[0].narrow if self.narrow else self.decoders[0].wide

    @property
    def asked(self) -> str:
        """The options of `mutoscope play` that play it so."""
        weights, cache = ("--weights int8" if self.weight_bytes == 1 else ""), ("--cache int8" if self.cache_bytes == 1 else "")
        options = ("--precision bf16" if self.narrow else "", self.decoders[0].asked, cache, weights)
        return " ".join(option for option in options if option)

    @property
    def words(self) -> str:
        """What of it the options change most, for people."""
        told = f"weights of {8 * self.weight_bytes} bit, memory of {8 * self.cache_bytes}, {self.decoders[0].name}"
        return f"{told}; mutoscope play {self.asked}".removesuffix("; mutoscope play ")

    def _going(self, serves: Literal["velocity", "cache"]) -> Going:
        slots = self.config.cache(self.policy, self.chunk, self.rows).slots
        return Going(self.config, self.rows, self.chunk, Reach(self.chunk * slots), self.text, serves, told="read")

    @property
    def flops(self) -> float:
        """Of a chunk without its codec, once the memory is full."""
        return self.steps * flops(self._going("velocity")).forward + flops(self._going("cache")).forward

    def seconds(self, device: Device, share: float = PLAYING_SHARE) -> float:
        """Of a chunk: its passes by FLOPs or by bytes, whatever takes longer, and the codec."""
        read = (self.steps + 1) * (self.parts["weights"] + self.parts["memory"])
        rate = share * (device.flops if self.narrow else device.wide_flops)
        codec = self.rows * self.chunk * self.decoders[0].flops / rate
        moved = self.rows * self.chunk * self.held.moved / device.link
        return max(self.flops / rate, read / (device.bandwidth * BANDWIDTH_SHARE)) + codec + moved

    def cost(self, device: Device, share: float = PLAYING_SHARE) -> Cost:
        """Bytes and seconds."""
        return Cost(sum(self.parts.values()), self.seconds(device, share))


def in_bfloat16(playing: Playing) -> Playing | None:
    """Weights, passes, memory and codec in bfloat16."""
    return None if playing.narrow else replace(playing, narrow=True, weight_bytes=2, cache_bytes=2)


def small_weights(playing: Playing) -> Playing | None:
    """Weights in 8 bit."""
    return replace(playing, weight_bytes=1) if playing.narrow and playing.weight_bytes == 2 else None


def small_cache(playing: Playing) -> Playing | None:
    """Keys and values in 8 bit."""
    return replace(playing, cache_bytes=1) if playing.narrow and playing.cache_bytes == 2 else None


def next_decoder(playing: Playing) -> Playing | None:
    """The next of the decoders that there are."""
    return replace(playing, decoders=playing.decoders[1:]) if len(playing.decoders) > 1 else None


def smaller_window(playing: Playing) -> Playing | None:
    """A memory of about two thirds of the newest frames, for the policies whose size is one number: not less than a chunk and some past."""
    policy, least = playing.policy, playing.chunk + LEAST_PAST
    if isinstance(policy, (Window, SinkWindow, RecencyBias)):
        frames = max(least, policy.window * 2 // 3)
        return replace(playing, policy=replace(policy, window=frames)) if frames < policy.window else None
    if isinstance(policy, (RollingWindow, DeepSink)):
        frames = max(least, policy.frames * 2 // 3)
        return replace(playing, policy=replace(policy, frames=frames)) if frames < policy.frames else None
    return None


OPTIONS: tuple[Option[Playing], ...] = (
    Option("weights, passes, memory and codec in bfloat16", "time", True, in_bfloat16),
    Option("the next decoder: in tiles, then a tiny one", "result", True, next_decoder),
    Option("keys and values in 8 bit", "result", True, small_cache),
    Option("weights in 8 bit", "result", True, small_weights),
    Option("a memory of two thirds of the frames, fewer than it was trained with", "result", True, smaller_window),
)
LEAST_PAST = 3  # frames before a chunk in the smallest memory that is proposed


def fit_session(playing: Playing, device: Device, share: float = PLAYING_SHARE, proposed: bool = False) -> list[Step[Playing]]:
    """The steps that make a session fit, of what is ready or also what is only `proposed`; see core.proposals.propose."""
    options = [option for option in OPTIONS if option.ready or proposed]
    return propose(playing, options, lambda state: state.cost(device, share), device.planned_bytes)
