"""What a model contributes to choosing by content: how its keys turn with time, and where its camera stands (memory.scoring compares)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.core.shapes import TokenGrid
from mutoscope.memory.choosing import Different
from mutoscope.memory.policy import AnyPolicy, ChoosingConfig
from mutoscope.memory.scoring import NO_SCORER, NOTE_TYPE, Scorer, difference, nearness, participation, repetition, similarity
from mutoscope.memory.sifting import token_participation
from mutoscope.models.rope import rotate, rotations

ONE_TOKEN = TokenGrid(1, 1)


@dataclass(frozen=True)
class Participation:
    """`sum q . k` as attention would have it: notes are turned in time to where their keys stand now.

    A frame's tokens share their turn in time, so that the sum over them, which carries their places on the screen, turns as they would.
    """

    head_dim: int

    def asking(self, recent: Tensor, travelled: Tensor) -> Tensor:
        """Recent frames."""
        return recent

    def scores(self, notes: Tensor, positions: tuple[int, ...], asking: Tensor, asking_positions: tuple[int, ...]) -> Tensor:
        """Notes `[n, layer, (query, key), head, D]` -> `[n]`."""
        return participation(self._turned(notes[:, :, 1], positions), self._turned(asking[:, :, 0], asking_positions))

    def _turned(self, sums: Tensor, positions: tuple[int, ...]) -> Tensor:
        """`[n, layer, head, D]` turned in time alone."""
        return in_time(sums, positions, self.head_dim)


@dataclass(frozen=True)
class TokenParticipation:
    """The same of every single token: its key as it stands, the recent frames' queries as sums that are turned to where they stand."""

    head_dim: int

    def asking(self, recent: Tensor, travelled: Tensor) -> Tensor:
        """Recent frames."""
        return recent

    def scores(self, notes: Tensor, positions: tuple[int, ...], asking: Tensor, asking_positions: tuple[int, ...]) -> Tensor:
        """One layer's keys `[n, head, D]`, and of its notes `[recent, 1, head, D]` -> `[n, head]`."""
        return token_participation(notes, in_time(asking, asking_positions, self.head_dim)[:, 0])


def in_time(sums: Tensor, positions: tuple[int, ...], head_dim: int) -> Tensor:
    """`[n, .., head, D]`, three axes before D or two, turned to their positions in time alone."""
    turns = rotations(torch.tensor(positions, device=sums.device)[:, None], ONE_TOKEN, head_dim, sums.dtype)
    return rotate(sums, turns.view(len(positions), *(1,) * (sums.ndim - 2), -1))


@dataclass(frozen=True)
class Similarity:
    """Cosines between unrotated mean keys."""

    def asking(self, recent: Tensor, travelled: Tensor) -> Tensor:
        """The newest frame."""
        return recent

    def scores(self, notes: Tensor, positions: tuple[int, ...], asking: Tensor, asking_positions: tuple[int, ...]) -> Tensor:
        """Notes `[n, layer, 1, head, D]` -> `[n]`."""
        return similarity(notes.squeeze(2), asking.squeeze(2))


@dataclass(frozen=True)
class Repetition:
    """Cosines between unrotated mean keys of frames and of those one position before them."""

    def asking(self, recent: Tensor, travelled: Tensor) -> Tensor:
        """All frames."""
        return recent

    def scores(self, notes: Tensor, positions: tuple[int, ...], asking: Tensor, asking_positions: tuple[int, ...]) -> Tensor:
        """Notes `[n, layer, 1, head, D]` -> `[n]`."""
        return repetition(notes.squeeze(2), positions, asking.squeeze(2), asking_positions)


@dataclass(frozen=True)
class Difference:
    """The order in which frames are chosen for being unlike the `recent` newest and those that were chosen before them."""

    recent: int

    def asking(self, recent: Tensor, travelled: Tensor) -> Tensor:
        """All frames."""
        return recent

    def scores(self, notes: Tensor, positions: tuple[int, ...], asking: Tensor, asking_positions: tuple[int, ...]) -> Tensor:
        """Notes `[n, layer, 1, head, D]` -> `[n]`; what stands where no frame asks gets -inf."""
        order = difference(asking.squeeze(2), self.recent).tolist()
        chosen = dict(zip(asking_positions, order, strict=True))
        return torch.tensor([chosen.get(position, -torch.inf) for position in positions], dtype=NOTE_TYPE)


@dataclass(frozen=True)
class Places:
    """Distances between places, in picture heights and widths; notes are where cameras stood. `step` `[2, action]` is learned."""

    step: Tensor

    def asking(self, recent: Tensor, travelled: Tensor) -> Tensor:
        """Where the chunk to come ends."""
        return place_of(travelled, self.step)[None]

    def scores(self, notes: Tensor, positions: tuple[int, ...], asking: Tensor, asking_positions: tuple[int, ...]) -> Tensor:
        """Notes `[n, 2]` -> `[n]`."""
        return nearness(notes, asking)


def place_of(travelled: Tensor, step: Tensor) -> Tensor:
    """The sum of all actions `[.., action]` float64 times a learned step `[2, action]`: picture heights down, widths right `[.., 2]`."""
    return (travelled[..., None, :] * step.double()).sum(-1)


def make_scorer(policy: AnyPolicy, head_dim: int, step: Tensor) -> Scorer:
    """The scorer that a policy asks; `step` is empty where the model does not reckon places."""
    if isinstance(policy, Different) and policy.grain == "frames":
        return Difference(policy.recent)
    match policy.criterion if isinstance(policy, ChoosingConfig) else "nothing":
        case "participation":
            return Participation(head_dim)
        case "tokens' participation":
            return TokenParticipation(head_dim)
        case "similarity":
            return Similarity()
        case "repetition":
            return Repetition()
        case "place":
            return Places(step.detach())
    return NO_SCORER
