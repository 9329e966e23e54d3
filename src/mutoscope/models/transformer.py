"""The causal video transformer: Wan 2.1's layers (arXiv 2503.20314), with a noise level and conditions per frame.

The dimensions come from the config; the tiny world model and Wan 2.1 are two values of it. Module names are
those of the published Wan checkpoints. The block knows nothing about time: who sees whom is the `attend` that
is passed in (models.attention), so that training and play run the very same layers.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from mutoscope.core.config import added_later
from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import LatentShape, TokenGrid, token_grid
from mutoscope.memory.choosing import Retrieval
from mutoscope.memory.extras import PLAIN_STORE, StoreExtras, with_extras
from mutoscope.memory.head_store import AnySpec, AnyStore, HeadSpec, HeadStore, cache_spec
from mutoscope.memory.kinds import StateConfig
from mutoscope.memory.policy import PolicyConfig, state_of
from mutoscope.memory.store import MemoryStore
from mutoscope.models.attention import Attend, Place
from mutoscope.models.camera import Views, views_of
from mutoscope.models.camera_config import CameraConfig, check_camera_actions, check_camera_memory
from mutoscope.models.conditions import Conditions, ReadText, Text, text_size
from mutoscope.models.layers import Attention, LayerNorm
from mutoscope.models.recall import LearnedRecall, learned_memories, recall_layer
from mutoscope.models.rope import travel_addresses, travel_rotations
from mutoscope.models.scorers import make_scorer, place_of


@dataclass(frozen=True)
class TransformerConfig:
    """Dimensions. `action_dim` and `text_dim` of 0 leave those inputs out; `temporal_stride` is the codec's; `travel`: see class Travel.

    `recall` is the state that a learned memory keeps in every layer (models.recall); None leaves the memory out. `camera`: actions move a
    camera and are told nothing else (models.camera); None leaves the camera out.
    """

    latent: LatentShape
    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    patch: int = 1
    freq_dim: int = 256
    action_dim: int = 0
    temporal_stride: int = 1
    text_dim: int = 0
    travel: bool = False
    recall: StateConfig | None = None
    eps: float = 1e-6
    camera: CameraConfig | None = added_later(None)

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} does not divide into {self.num_heads} heads")
        if self.travel and not self.action_dim:
            raise ConfigError("travel needs actions to reckon from, and action_dim is 0")
        if self.camera is not None:
            self._check_camera()

    def _check_camera(self) -> None:
        check_camera_actions(self.action_dim)
        if self.travel or self.recall is not None:
            raise ConfigError(
                "a model with a camera reckons poses from its actions, and keys that travel or a learned memory would count the same "
                "motion again; leave out travel and recall, or the camera"
            )
        if self.head_dim % 4:
            raise ConfigError(f"a camera turns groups of four channels, and heads of {self.head_dim} do not divide into them")

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.num_heads

    @property
    def grid(self) -> TokenGrid:
        """Tokens of one frame."""
        return token_grid(self.latent, self.patch)

    @property
    def attentions(self) -> int:
        """How many times tokens attend: once in every layer, and with a camera twice."""
        return self.num_layers if self.camera is None else 2 * self.num_layers

    @property
    def embeds_actions(self) -> bool:
        """Whether actions are told to the layers; those that move a camera are not."""
        return self.action_dim > 0 and self.camera is None

    def cache(self, policy: PolicyConfig, max_chunk: int, rows: int = 1) -> AnySpec:
        """The cache that this model needs under a policy; one that goes by places needs a model that reckons them.

        A model with a camera has places for its camera attention after those of its layers: layer ~l is the l-th from the end.
        """
        check_camera_memory(self.camera, policy)
        if isinstance(policy, Retrieval) and policy.by == "place" and not self.travel:
            raise ConfigError(
                "this model does not reckon where it stands (travel), and cannot find frames by their place; use by=similarity"
            )
        return cache_spec(self.attentions, self.num_heads, self.head_dim, self.grid.tokens, policy, max_chunk, rows)


class Block(nn.Module):
    """Modulated self-attention, optional cross-attention to text, modulated feed-forward."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.eps, self.dim = layer, config.eps, config.dim
        self.self_attn = Attention(config)
        if config.camera is not None:
            self.self_attn.prope_o = nn.Linear(config.dim, config.dim)
        self.reads_text = config.text_dim > 0
        if self.reads_text:
            self.cross_attn = Attention(config)
            self.norm3 = LayerNorm(config.dim, config.eps)
        self.ffn = nn.Sequential(nn.Linear(config.dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, config.dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)
        self.memories = () if config.recall is None else (recall_layer(config.recall, config.num_heads, config.head_dim),)
        self.recall = nn.ModuleList(self.memories)

    def forward(self, x: Tensor, modulation: Tensor, text: Text, attend: Attend, views: Views | None) -> Tensor:
        """x `[B, F, T, dim]`, modulation `[B, F, 6, dim]`, text `[B, L, dim]` or as it was read; one without text is not looked at."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self._modulation(modulation)
        attended = self.self_attn.project(self._attended(x, shift1, scale1, attend, views), views)
        x = torch.addcmul(x, attended.view(x.shape), gate1)
        if self.reads_text:
            flat = x.flatten(1, 2)
            x = (flat + self.cross_attn.cross_attention(self.norm3(flat), *self._text(text))).view_as(x)
        normed = torch.addcmul(shift2, layer_norm(x, (self.dim,), eps=self.eps), 1 + scale2)
        return torch.addcmul(x, self.ffn(normed), gate2)

    def write(self, x: Tensor, modulation: Tensor, attend: Attend, views: Views | None) -> None:
        """What `forward` writes into memory, and no more."""
        shift, scale = self._modulation(modulation)[:2]
        self._attended(x, shift, scale, attend, views)

    def read_text(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of an embedded prompt `[B, L, dim]`, each `[B, head, L, head_dim]`: for callers outside."""
        return self.cross_attn.read(embedded)

    def _text(self, text: Text) -> tuple[Tensor, Tensor]:
        """The text's keys and values in this layer: those that were made once for the prompt, or made now."""
        return (text.keys[self.layer], text.values[self.layer]) if isinstance(text, ReadText) else self.cross_attn.read(text)

    def _modulation(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of attention, then of the feed-forward, each `[B, F, 1, dim]`."""
        return (modulation + self.modulation)[:, :, :, None].unbind(2)

    def _attended(self, x: Tensor, shift: Tensor, scale: Tensor, attend: Attend, views: Views | None) -> tuple[Tensor, ...]:
        normed = torch.addcmul(shift, layer_norm(x, (self.dim,), eps=self.eps), 1 + scale)
        return self.self_attn.self_attention(normed.flatten(1, 2), self.layer, attend, self.memories, views)


class Head(nn.Module):
    """Modulated norm and projection to patches."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.latent.channels * config.patch**2)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x `[B, F, T, dim]`, embedding `[B, F, dim]` -> `[B, F, T, patch * patch * channels]`."""
        shift, scale = (embedding[:, :, None] + self.modulation)[:, :, :, None].unbind(2)
        return self.head(torch.addcmul(shift, layer_norm(x, (x.shape[-1],), eps=self.eps), 1 + scale))


class ActionEmbedding(nn.Module):
    """Actions of a frame, or a learned null where none is known, as one vector added to the time embedding."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(config.temporal_stride * config.action_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.null = nn.Parameter(torch.zeros(config.dim))

    def forward(self, conditions: Conditions) -> Tensor:
        """Conditions of `[B, F]` frames -> `[B, F, dim]`."""
        return torch.where(conditions.known[..., None], self.net(conditions.actions.flatten(2)), self.null)


class Travel(nn.Module):
    """Where a frame's camera stands, reckoned from the actions: their sum times a learned step, in picture heights and widths.

    Queries and keys are turned by it along the height and width axes before any memory sees them, so that a token's rotary
    position is its place in the world, not on the screen: what left the view and returns has its old place again.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.grid, self.head_dim, self.remembers = config.grid, config.head_dim, config.recall is not None
        self.step = nn.Parameter(torch.zeros(2, config.action_dim))

    def forward(self, conditions: Conditions) -> Place:
        """The place of every token of `[B, F]` frames."""
        places, size = place_of(conditions.travelled(), self.step), (self.grid, self.head_dim, self.step.dtype)
        return Place(travel_rotations(places, *size), travel_addresses(places, *size) if self.remembers else None)


@dataclass(frozen=True)
class Inputs:
    """What the blocks are given: x `[B, F, tokens, dim]`, embedding `[B, F, dim]`, modulation `[B, F, 6, dim]`, text, cameras' views."""

    x: Tensor
    embedding: Tensor
    modulation: Tensor
    text: Text
    attend: Attend
    views: Views | None


class VideoTransformer(nn.Module):
    """Predicts velocity for noisy latents; whole-clip, teacher-forced and streaming use differ only in `attend`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.dim, (1, config.patch, config.patch)
        self.patch_embedding = nn.Conv3d(config.latent.channels, dim, kernel_size=patch, stride=patch)
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        if config.text_dim:
            self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        if config.embeds_actions:
            self.action_embedding = ActionEmbedding(config)
        if config.travel:
            self.travel = Travel(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.head = Head(config)

    def initialise(self, generator: torch.Generator) -> "VideoTransformer":
        """Fresh weights from a named generator: Xavier for matrices, zero biases, a zero output head (so velocity starts at 0)."""
        for name, parameter in self.named_parameters():
            if ".recall." in name:
                continue
            if name == "travel.step" or ".prope_o." in name:
                nn.init.zeros_(parameter)
            elif name.endswith("modulation"):
                nn.init.normal_(parameter, std=self.config.dim**-0.5, generator=generator)
            elif parameter.ndim >= 2:
                flat = parameter.data.flatten(1)
                nn.init.xavier_uniform_(flat, generator=generator)
            elif name.endswith("bias") or name.endswith("null"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)
        for layer in self.time_embedding:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.head.weight)
        for memory in self.memories:
            memory.initialise(generator)
        return self

    @property
    def memories(self) -> list[LearnedRecall]:
        """The learned memories of all layers; none where the config has none."""
        return learned_memories(self)

    @property
    def travel_step(self) -> Tensor:
        """How far each action moves the camera, `[2, action]`; empty where the model does not reckon that."""
        return self.travel.step if self.config.travel else torch.empty(0)

    def new_store(self, policy: PolicyConfig, max_chunk: int, rows: int, like: Tensor, extras: StoreExtras = PLAIN_STORE) -> AnyStore:
        """An empty store of this model under a policy, on the device and in the type of `like`; learned memories at their start."""
        if state_of(policy) != self.config.recall:
            raise ConfigError(
                f"this model's learned memory is {self.config.recall or 'none'}, and the memory policy wants {state_of(policy) or 'none'}; "
                "a learned memory is part of the weights: choose another cache beside it, or train one with that recipe"
            )
        spec = with_extras(self.config.cache(policy, max_chunk, rows), extras)
        scorers = [make_scorer(part.policy, self.config.head_dim, self.travel_step) for part in spec.parts]
        if isinstance(spec, HeadSpec):
            return HeadStore(spec, scorers, device=like.device, dtype=like.dtype)
        starts = [memory.start(1)[0] for memory in self.memories]
        start = torch.stack(starts) if starts else like.new_zeros(0)
        return MemoryStore(spec, start.detach(), scorers[0], device=like.device, dtype=like.dtype)

    def forward(self, latents: Tensor, sigma: Tensor, conditions: Conditions, attend: Attend) -> Tensor:
        """latents `[B, F, C, H, W]`, sigma `[B, F]` -> velocity of the latents' shape."""
        run = self._enter(latents, sigma, conditions, attend)
        x = run.x
        for block in self.blocks:
            x = block(x, run.modulation, run.text, run.attend, run.views)
        return self.join_patches(self.head(x, run.embedding))

    def write(self, latents: Tensor, sigma: Tensor, conditions: Conditions, attend: Attend) -> None:
        """What `forward` writes into memory, without the velocity: nothing after the last layer's attention is computed."""
        run = self._enter(latents, sigma, conditions, attend)
        x = run.x
        for block in self.blocks[:-1]:
            x = block(x, run.modulation, run.text, run.attend, run.views)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        last.write(x, run.modulation, run.attend, run.views)

    def _enter(self, latents: Tensor, sigma: Tensor, conditions: Conditions, attend: Attend) -> "Inputs":
        self._check(latents, sigma, conditions)
        embedding = self.time_embedding(sinusoids(1000 * sigma, self.config.freq_dim).to(latents.dtype))
        if self.config.embeds_actions:
            embedding = embedding + self.action_embedding(conditions)
        modulation = self.time_projection(embedding).unflatten(-1, (6, -1))
        text = self.text_embedding(conditions.text) if isinstance(conditions.text, Tensor) and self.config.text_dim else conditions.text
        if self.config.travel:
            attend = attend.placed(self.travel(conditions))
        return Inputs(self.embed_patches(latents), embedding, modulation, text, attend, self._views(conditions, latents))

    def _views(self, conditions: Conditions, latents: Tensor) -> Views | None:
        """What cameras do to tokens; None where there are none."""
        camera, cameras = self.config.camera, conditions.cameras
        return None if camera is None or cameras is None else views_of(cameras, camera, latents.dtype)

    @torch.no_grad()
    def read_text(self, text: Tensor) -> ReadText:
        """The keys and values of a prompt's embedding `[B, L, text_dim]` in all layers, for the passes of play and of rollouts."""
        self._check_text(text, text.shape[0])
        embedded = self.text_embedding(text)
        keys, values = zip(*(block.read_text(embedded) for block in self.blocks if isinstance(block, Block)), strict=True)
        return ReadText(torch.stack(keys), torch.stack(values))

    def embed_patches(self, latents: Tensor) -> Tensor:
        """`[B, F, C, H, W]` -> `[B, F, tokens, dim]`: the patch convolution written as one matrix product."""
        batch, frames, channels, _, _ = latents.shape
        grid, patch = self.config.grid, self.config.patch
        cut = latents.view(batch, frames, channels, grid.height, patch, grid.width, patch)
        cut = cut.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, frames, grid.tokens, channels * patch * patch)
        return linear(cut, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def join_patches(self, x: Tensor) -> Tensor:
        """`[B, F, tokens, patch * patch * C]` (Wan's order: channels last) -> `[B, F, C, H, W]`."""
        batch, frames, _, _ = x.shape
        grid, patch, channels = self.config.grid, self.config.patch, self.config.latent.channels
        x = x.view(batch, frames, grid.height, grid.width, patch, patch, channels)
        return x.permute(0, 1, 6, 2, 4, 3, 5).reshape(batch, frames, channels, grid.height * patch, grid.width * patch)

    def _check(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> None:
        config = self.config
        latent = (config.latent.channels, config.latent.height, config.latent.width)
        if latents.ndim != 5 or tuple(latents.shape[2:]) != latent:
            raise ConfigError(f"latents are {tuple(latents.shape)}; this model takes [batch, frame, {', '.join(map(str, latent))}]")
        if sigma.shape != latents.shape[:2]:
            raise ConfigError(f"sigma is {tuple(sigma.shape)}; it must be one level per frame, {tuple(latents.shape[:2])}")
        actions = (*latents.shape[:2], config.temporal_stride, config.action_dim)
        if config.action_dim and tuple(conditions.actions.shape) != actions:
            raise ConfigError(f"actions are {tuple(conditions.actions.shape)}; they must be {actions}")
        cameras = (*latents.shape[:2], 4, 4)
        if config.camera is not None and (conditions.cameras is None or tuple(conditions.cameras.shape) != cameras):
            given = "none" if conditions.cameras is None else tuple(conditions.cameras.shape)
            raise ConfigError(
                f"cameras are {given}; this model is steered by {cameras}: models.camera.with_cameras makes them from actions"
            )
        if config.text_dim:
            self._check_text(conditions.text, latents.shape[0])

    def _check_text(self, text: Text, batch: int) -> None:
        found, config = text_size(text), self.config
        if isinstance(text, ReadText):
            wanted: tuple[int | str, ...] = (config.num_layers, batch, config.num_heads, "token", config.head_dim)
        else:
            wanted = (batch, "token", config.text_dim)
        if (
            not config.text_dim
            or len(found) != len(wanted)
            or 0 in found
            or any(a != b for a, b in zip(found, wanted, strict=True) if b != "token")
        ):
            raise ConfigError(f"the prompt is {found}; this model reads {wanted if config.text_dim else 'none'}")


def told_once(model: VideoTransformer, conditions: Conditions) -> Conditions:
    """The conditions with the prompt read by the model, for many passes without gradient; a model without text takes them as they are."""
    if not model.config.text_dim:
        return conditions
    text, negative = (model.read_text(item) if isinstance(item, Tensor) else item for item in (conditions.text, conditions.negative))
    return conditions.told(text, negative)


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """cos then sin of position * 10000^(-i / (dim / 2)), `[..., dim]`, computed in float64 as Wan does."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float64, device=positions.device) / half
    angles = positions.to(torch.float64)[..., None] * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
