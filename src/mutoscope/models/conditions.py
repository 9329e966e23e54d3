"""What a frame is told: one typed value for all conditions, with their nulls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError


@dataclass(frozen=True)
class ReadText:
    """A prompt as the layers of one model read it: keys and values `[layer, batch, head, token, head_dim]`, made once per prompt."""

    keys: Tensor
    values: Tensor

    def of(self, rows: slice) -> "ReadText":
        """Those of some rows of the batch."""
        return ReadText(self.keys[:, rows], self.values[:, rows])


Text = Tensor | ReadText
"""A prompt's embedding `[batch, token, text_dim]`, which every pass reads anew and training learns through; or what was read of one."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a clip.

    actions   `[batch, frame, temporal_stride, action]` float: the actions that led to each pixel frame of a frame
    known     `[batch, frame]` bool: False puts the learned null in place of the frame's actions
    travel    `[batch, frame, action]` float64: the sum of all known actions before each frame, its own left out
    text      the prompt, `[batch, token, text_dim]` float or as it was read; a model without text takes a width of 0
    negative  the prompt that stands in its place where there is none, of the same kind and size
    cameras   `[batch, frame, 4, 4]` float64: camera from world at the end of each frame, for models with a camera (models.camera)
    """

    actions: Tensor
    known: Tensor
    travel: Tensor
    text: Text
    negative: Text
    cameras: Tensor | None = None

    def frames(self, start: int, stop: int) -> "Conditions":
        """Those of frames start .. stop - 1."""
        span = slice(start, stop)
        cameras = None if self.cameras is None else self.cameras[:, span]
        return replace(self, actions=self.actions[:, span], known=self.known[:, span], travel=self.travel[:, span], cameras=cameras)

    def rows(self, rows: slice) -> "Conditions":
        """Those of some rows of the batch."""
        text, negative = (text_rows(item, rows) for item in (self.text, self.negative))
        cameras = None if self.cameras is None else self.cameras[rows]
        return Conditions(self.actions[rows], self.known[rows], self.travel[rows], text, negative, cameras)

    def told(self, text: Text, negative: Text) -> "Conditions":
        """The same frames under a prompt and its negative."""
        return replace(self, text=text, negative=negative)

    def null(self, chunks: Sequence[int]) -> "Conditions":
        """Guidance's null: of chunks of these lengths no action is known, only where each began, and the negative prompt holds.

        Cameras stay where they are: of a model with a camera the prompt alone is guided.
        """
        self._check_negative()
        return replace(self, known=torch.zeros_like(self.known), travel=self._held(chunks), text=self.negative)

    def dropped(self, keep: Tensor, chunks: Sequence[int]) -> "Conditions":
        """`null` in the batch rows where `keep` `[batch]` is False (guidance dropout)."""
        self._check_negative()
        travel = torch.where(keep[:, None, None], self.travel, self._held(chunks))
        return replace(self, known=self.known & keep[:, None], travel=travel, text=chosen_text(keep, self.text, self.negative))

    def travelled(self) -> Tensor:
        """`travel` with each frame's own actions: `[batch, frame, action]` float64."""
        return self.travel + own_travel(self.actions, self.known)

    def as_first(self) -> "Conditions":
        """These frames as the begin of a clip, whose first frame is one pixel frame: its last, with its action `temporal_stride` times.

        Where the camera stands in every frame stays the same.
        """
        alone = self.actions[:, :1, -1:].expand_as(self.actions[:, :1])
        before = self.travelled()[:, :1] - own_travel(alone, self.known[:, :1])
        actions, travel = torch.cat([alone, self.actions[:, 1:]], dim=1), torch.cat([before, self.travel[:, 1:]], dim=1)
        return replace(self, actions=actions, travel=travel)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Conditions":
        """On a device, floats in a type; travel and cameras stay in float64."""
        text, negative = (text_on(item, device, dtype) for item in (self.text, self.negative))
        cameras = None if self.cameras is None else self.cameras.to(device)
        return Conditions(self.actions.to(device, dtype), self.known.to(device), self.travel.to(device), text, negative, cameras)

    def _check_negative(self) -> None:
        if text_size(self.text) != text_size(self.negative):
            raise ConfigError(
                f"without its prompt a model reads the negative one, and that is {text_size(self.negative)} where the prompt is "
                f"{text_size(self.text)}; tell it both"
            )

    def _held(self, chunks: Sequence[int]) -> Tensor:
        if sum(chunks) != self.known.shape[1]:
            raise ConfigError(f"chunks of {tuple(chunks)} frames do not make up {self.known.shape[1]} frames")
        parts = self.travel.split(list(chunks), dim=1)
        return torch.cat([part[:, :1].expand_as(part) for part in parts], dim=1)


def text_rows(text: Text, rows: slice) -> Text:
    """The prompt of some rows of the batch."""
    return text.of(rows) if isinstance(text, ReadText) else text[rows]


def text_on(text: Text, device: torch.device | str, dtype: torch.dtype) -> Text:
    """A prompt on a device, in a type."""
    if isinstance(text, ReadText):
        return ReadText(text.keys.to(device, dtype), text.values.to(device, dtype))
    return text.to(device, dtype)


def text_tensors(text: Text) -> tuple[Tensor, ...]:
    """The tensors that a prompt is made of."""
    return (text.keys, text.values) if isinstance(text, ReadText) else (text,)


def same_text(first: Text, second: Text) -> bool:
    """Whether two prompts are the same numbers; those that lie at one place are not compared."""
    pairs = list(zip(text_tensors(first), text_tensors(second), strict=False))
    kinds = type(first) is type(second) and all(own.shape == other.shape for own, other in pairs)
    return kinds and all(own.data_ptr() == other.data_ptr() or torch.equal(own, other) for own, other in pairs)


def text_size(text: Text) -> tuple[int, ...]:
    """The size of a prompt's tensor, or of its keys."""
    return tuple(text.keys.shape if isinstance(text, ReadText) else text.shape)


def chosen_text(keep: Tensor, first: Text, second: Text) -> Text:
    """Row by row, the first prompt where `keep` `[batch]` is True and else the second."""
    if isinstance(first, ReadText) and isinstance(second, ReadText):
        mask = keep[None, :, None, None, None]
        return ReadText(torch.where(mask, first.keys, second.keys), torch.where(mask, first.values, second.values))
    if isinstance(first, ReadText) or isinstance(second, ReadText):
        raise ConfigError("one prompt was read and the other was not; read both, or none")
    return torch.where(keep[:, None, None], first, second)


def joined_text(texts: Sequence[Text]) -> Text:
    """Prompts of several batches as one; all of them read by the model, or none."""
    read = [text for text in texts if isinstance(text, ReadText)]
    if not read:
        return torch.cat([text for text in texts if isinstance(text, Tensor)])
    if len(read) < len(texts):
        raise ConfigError("some prompts were read and others were not; read all of them, or none")
    return ReadText(torch.cat([text.keys for text in read], dim=1), torch.cat([text.values for text in read], dim=1))


def join(conditions: Sequence[Conditions]) -> Conditions:
    """Conditions of several batches as one."""
    first = conditions[0]
    if len(conditions) == 1:
        return first
    parts = [(item.actions, item.known, item.travel) for item in conditions]
    actions, known, travel = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    text, negative = joined_text([item.text for item in conditions]), joined_text([item.negative for item in conditions])
    return Conditions(actions, known, travel, text, negative, joined_cameras([item.cameras for item in conditions], dim=0))


def joined_cameras(parts: Sequence[Tensor | None], dim: int) -> Tensor | None:
    """Cameras of several batches (dim 0) or of frames in a row (dim 1); all of them have some, or none."""
    cameras = [part for part in parts if part is not None]
    if not cameras:
        return None
    if len(cameras) < len(parts):
        raise ConfigError("some of these frames have cameras and others have none; give all of them cameras (models.camera.with_cameras)")
    return torch.cat(cameras, dim=dim)


def own_travel(actions: Tensor, known: Tensor) -> Tensor:
    """The sum of each frame's known actions, `[batch, frame, action]` float64."""
    return (actions.double() * known[..., None, None]).sum(dim=2)


def action_conditions(actions: Tensor, known: Tensor, start: Tensor | None = None) -> Conditions:
    """Conditions of a world without text; `start` `[batch, action]` is the travel before the first frame, none by default."""
    own = own_travel(actions, known)
    travel = own.cumsum(dim=1) - own
    if start is not None:
        travel = travel + start[:, None]
    nothing = actions.new_zeros(actions.shape[0], 0, 0)
    return Conditions(actions, known, travel, nothing, nothing)


def clip_conditions(actions: Tensor, known: Tensor, temporal_stride: int) -> Conditions:
    """Actions of pixel frames `[B, T, A]`, known `[B, T]` -> conditions of the clip's frames (no text).

    The first pixel frame stands alone: its frame carries its action `temporal_stride` times. Every later frame
    carries the actions of its own `temporal_stride` pixel frames, and is known if all of them are.
    """
    spread = torch.cat([actions[:, :1].expand(-1, temporal_stride, -1), actions[:, 1:]], dim=1)
    flags = torch.cat([known[:, :1].expand(-1, temporal_stride), known[:, 1:]], dim=1)
    if spread.shape[1] % temporal_stride:
        raise ConfigError(f"{actions.shape[1]} pixel frames are not 1 + a multiple of the temporal stride {temporal_stride}")
    return action_conditions(spread.unflatten(1, (-1, temporal_stride)), flags.unflatten(1, (-1, temporal_stride)).all(dim=2))
