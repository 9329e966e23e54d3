"""Memories that choose by content, in plain lists: one player, everything kept, every choice made anew from whole keys and queries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mutoscope.memory.choosing import Different, Merging, Participative, Retrieval
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.policy import SinkWindow
from mutoscope.models.attention import Place
from mutoscope.models.conditions import Conditions
from mutoscope.models.rope import rotate, rotations
from mutoscope.models.transformer import VideoTransformer

Choosing = Participative | Retrieval | Merging | Different | SinkWindow
Score = Callable[["ListPlayer", Any, Conditions], float]
"""How good a frame is, by its number; or a token (class Token), where tokens are chosen."""


class Token(NamedTuple):
    """A token that may be chosen: whose, in which slot's frame it lies now, and where it comes from."""

    layer: int
    head: int
    lies: int
    frame: int
    place: int


@dataclass(frozen=True)
class Told:
    """A committed frame in one layer: queries and keys without position but turned to their place in the world, raw keys, values."""

    queries: Tensor
    keys: Tensor
    raw: Tensor
    values: Tensor


@dataclass
class ListPlayer:
    """Attention over a list of frames; softmax written out. `shelf` frames at most are kept outside the slots."""

    model: VideoTransformer
    policy: Choosing
    shelf: int
    score: Score
    told: dict[tuple[int, int], Told] = field(default_factory=dict)
    places: dict[int, Tensor] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)  # frame -> position at which its keys stood last
    shelved: list[int] = field(default_factory=list)
    merged: dict[int, list[int]] = field(default_factory=dict)  # frame -> itself and the frames that merged into it
    chunk: list[int] = field(default_factory=list)
    sources: list[tuple[int, int]] = field(default_factory=list)
    writes: bool = False
    place: Tensor | None = None
    mosaics: dict[tuple[int, int, int], list[tuple[int, int]]] = field(
        default_factory=dict
    )  # layer, head, frame -> frame and place of tokens

    def tokens(self, layer: int, head: int, frame: int) -> list[tuple[int, int]]:
        """What a slot's frame holds for a head: by frame and place."""
        return self.mosaics.get((layer, head, frame), [(frame, place) for place in range(self.model.config.grid.tokens)])

    def sift(self, between: list[int], room: int, conditions: Conditions) -> list[int]:
        """Every head of every layer chooses among the tokens of some frames; the first `room` of these hold them from now on."""
        size, heirs = self.model.config.grid.tokens, between[:room]
        chosen = {}
        for layer in range(self.model.config.num_layers):
            for head in range(self.told[layer, between[0]].keys.shape[1]):
                all_tokens = [Token(layer, head, lies, *token) for lies in between for token in self.tokens(layer, head, lies)]
                best = sorted(all_tokens, key=lambda token: self.score(self, token, conditions), reverse=True)[: room * size]
                row = [(token.frame, token.place) for token in all_tokens if token in best]
                chosen |= {(layer, head, heir): row[place * size : (place + 1) * size] for place, heir in enumerate(heirs)}
        self.mosaics |= chosen
        return heirs

    def keys_of(self, layer: int, frame: int, position: int) -> Tensor:
        """A slot's keys, each turned to where its token stood and to the slot's time."""
        if (layer, 0, frame) not in self.mosaics:
            return self.at(self.of(layer, frame, "keys"), [position])
        heads = range(self.told[layer, frame].keys.shape[1])
        return torch.stack(
            [torch.cat([self.key(layer, head, *token, position) for token in self.tokens(layer, head, frame)], dim=1) for head in heads],
            dim=1,
        )

    def key(self, layer: int, head: int, frame: int, place: int, position: int) -> Tensor:
        """One head's key of one token at a position, `[1, 1, D]`."""
        return self.at(self.told[layer, frame].keys[:, head], [position])[:, place : place + 1]

    def values_of(self, layer: int, frame: int) -> Tensor:
        """A slot's values."""
        if (layer, 0, frame) not in self.mosaics:
            return self.of(layer, frame, "values")
        heads = range(self.told[layer, frame].values.shape[1])
        picked = [[self.told[layer, each].values[:, head, place] for each, place in self.tokens(layer, head, frame)] for head in heads]
        return torch.stack([torch.stack(row, dim=1) for row in picked], dim=1)

    def open(self, frames: Sequence[int], conditions: Conditions) -> list[int]:
        """Choose what the next chunk reads; the frames, in order."""
        self.chunk = list(frames)
        everything = sorted({*self.slots, *self.shelved})
        best = lambda some, count: sorted(sorted(some, key=lambda frame: (self.score(self, frame, conditions), frame))[-count:])  # noqa: E731
        if isinstance(self.policy, Retrieval):
            border = max(0, len(everything) - (self.policy.window - len(frames)))
            chosen = best(everything[:border], self.policy.recalled) + everything[border:]
        elif isinstance(self.policy, Merging):
            spare = max(0, len(everything) + len(frames) - self.policy.frames)
            gone = best(everything[1 : len(everything) - self.policy.recent], spare) if spare else []
            for frame in reversed(gone):
                self.merged[everything[everything.index(frame) - 1]] += self.merged.pop(frame)
            chosen = [frame for frame in everything if frame not in gone]
        elif isinstance(self.policy, SinkWindow):
            newest = range(frames[0] + len(frames) - self.policy.window, frames[0])
            chosen = [frame for frame in everything if frame < self.policy.sink or frame in newest]
        elif isinstance(self.policy, Different):
            older, recent = everything[: len(everything) - self.policy.recent], everything[len(everything) - self.policy.recent :]
            spare = max(0, len(everything) + len(frames) - self.policy.frames)
            keep = best if self.policy.grain == "frames" else lambda some, count: self.sift(some, count, conditions)
            chosen = keep(older, len(older) - spare) + recent if spare else everything
        elif len(everything) + len(frames) <= self.policy.budget + self.policy.room:
            chosen = everything
        else:
            sinks, rest = everything[: self.policy.sink], everything[self.policy.sink :]
            between, recent = rest[: -self.policy.recent], rest[-self.policy.recent :]
            keep = best if self.policy.grain == "frames" else lambda some, count: self.sift(some, count, conditions)
            chosen = sinks + keep(between, self.policy.budget - len(sinks) - len(recent)) + recent
        if isinstance(self.policy, Retrieval):
            self.shelved = sorted({*self.shelved, *(frame for frame in self.slots if frame not in chosen)})[-self.shelf :]
        self.sources = [(frame, frames[0] - len(chosen) + place) for place, frame in enumerate(chosen)]
        self.slots = dict(self.sources)
        return chosen

    def at(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """x rotated to the positions of its frames."""
        return rotate(x, rotations(torch.tensor(positions), self.model.config.grid, self.model.config.head_dim, x.dtype))

    def placed(self, place: Place) -> "ListPlayer":
        """Queries and keys are first turned to their places."""
        self.place = place.rotation
        return self

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        raw, count = keys, len(self.chunk)
        if self.place is not None:
            queries, keys = rotate(queries, self.place), rotate(keys, self.place)
        past = [(self.keys_of(layer, frame, position), self.values_of(layer, frame)) for frame, position in self.sources]
        seen = [*past, (self.at(keys, self.chunk), values)]
        if self.writes:
            parts = zip(*(tensor.detach().chunk(count, dim=2) for tensor in (queries, keys, raw, values)), strict=True)
            self.told.update({(layer, frame): Told(*part) for frame, part in zip(self.chunk, parts, strict=True)})
        all_keys, all_values = (torch.cat(parts, dim=2) for parts in zip(*seen, strict=True))
        logits = self.at(queries, self.chunk) @ all_keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        counts = torch.tensor([*(len(self.merged[frame]) for frame, _ in self.sources), *(1 for _ in self.chunk)]).double()
        return (logits + counts.log().repeat_interleave(self.model.config.grid.tokens)).softmax(dim=-1) @ all_values

    def of(self, layer: int, frame: int, part: str) -> Tensor:
        """Keys or values of a frame: the mean of those that are in it."""
        return torch.stack([getattr(self.told[layer, each], part) for each in self.merged[frame]]).mean(dim=0)

    def run(self, latents: Tensor, sigma: float, conditions: Conditions) -> Tensor:
        """Velocity of the open chunk."""
        self.place, self.writes = None, False
        return self.model(latents, latents.new_full(latents.shape[:2], sigma), conditions, self)

    def commit(self, latents: Tensor, conditions: Conditions) -> None:
        """The open chunk becomes past."""
        self.place, self.writes = None, True
        with torch.no_grad():
            self.model(latents, torch.zeros_like(latents[:, :, 0, 0, 0]), conditions, self)
        if self.model.config.travel:
            places = conditions.travelled()[0] @ self.model.travel.step.detach().T
            self.places.update(dict(zip(self.chunk, places, strict=True)))
        self.slots |= {frame: frame for frame in self.chunk}
        self.merged |= {frame: [frame] for frame in self.chunk}


def by_attention(player: ListPlayer, frame: int, conditions: Conditions) -> float:
    """All logits that the recent frames' queries give to a frame's keys, as they stand, without the division."""
    total, recent = 0.0, sorted(player.slots)[-player.policy.recent :]
    for layer in range(player.model.config.num_layers):
        keys = player.at(player.told[layer, frame].keys, [player.slots[frame]])
        for asking in recent:
            total += float((player.at(player.told[layer, asking].queries, [player.slots[asking]]) @ keys.transpose(-1, -2)).sum())
    return total


def by_token_attention(player: ListPlayer, token: Token, conditions: Conditions) -> float:
    """All logits that the recent frames' queries give to a token's key, as it stands, without the division."""
    key, total = player.key(token.layer, token.head, token.frame, token.place, player.slots[token.lies]), 0.0
    for asking in sorted(player.slots)[-player.policy.recent :]:
        queries = player.at(player.told[token.layer, asking].queries[:, token.head], [player.slots[asking]])
        total += float((queries @ key.transpose(-1, -2)).sum())
    return total


def by_change(player: ListPlayer, token: Token, conditions: Conditions) -> float:
    """1 - the cosine with the key that stood at the token's place one frame before, to seven digits: what is noted is so short."""
    if token.frame == 0:
        return 2.0
    now, before = (player.told[token.layer, frame].keys[0, token.head, token.place] for frame in (token.frame, token.frame - 1))
    return float((1 - now @ before / (now.norm() * before.norm())).float())


def by_similarity(player: ListPlayer, frame: int, conditions: Conditions) -> float:
    """Cosine of mean raw keys with the newest frame's, averaged over layers and heads."""
    return alike(player, frame, max(player.slots))


def by_repetition(player: ListPlayer, frame: int, conditions: Conditions) -> float:
    """The same with the frame that is remembered right before it."""
    return alike(player, frame, max(each for each in player.slots if each < frame))


def alike(player: ListPlayer, frame: int, other: int) -> float:
    """Cosines of two frames' mean raw keys, averaged over layers and heads."""
    cosines = []
    for layer in range(player.model.config.num_layers):
        pair = (player.of(layer, each, "raw")[0].mean(dim=1) for each in (frame, other))
        cosines += [float(a @ b / (a.norm() * b.norm())) for a, b in zip(*pair, strict=True)]
    return sum(cosines) / len(cosines)


def by_difference(player: ListPlayer, frame: int, conditions: Conditions) -> float:
    """Minus the place of a frame in the row of those that are kept one by one, each the least like all that are kept before it."""
    everything = sorted(player.slots)
    row = everything[len(everything) - player.policy.recent :]
    recent = len(row)
    while frame not in row:
        likeness = {other: max(alike(player, other, kept) for kept in row) for other in everything if other not in row}
        row.append(min(likeness, key=lambda other: (likeness[other], other)))
    return -(row.index(frame) - recent)


def by_place(player: ListPlayer, frame: int, conditions: Conditions) -> float:
    """Minus the distance to where the chunk ends."""
    end = conditions.travelled()[0, -1] @ player.model.travel.step.detach().T
    return -float((player.places[frame] - end).norm())


SCORES: dict[str, Score] = {
    "participation": by_attention,
    "tokens' participation": by_token_attention,
    "tokens' change": by_change,
    "similarity": by_similarity,
    "place": by_place,
    "repetition": by_repetition,
    "difference": by_difference,
}


@dataclass
class HeadPlayer:
    """A list player for every group of heads; the static ones of each layer are named, the others go by what is different."""

    model: VideoTransformer
    static: Sequence[Sequence[int]]
    parts: list[ListPlayer]

    def open(self, frames: Sequence[int], conditions: Conditions) -> list[list[int]]:
        """What each group reads."""
        return [part.open(frames, conditions) for part in self.parts]

    def placed(self, place: Place) -> "HeadPlayer":
        """Every group is turned to places."""
        for part in self.parts:
            part.placed(place)
        return self

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        read = torch.zeros_like(queries)
        static = [head in self.static[layer] for head in range(queries.shape[1])]
        for part, heads in zip(self.parts, (static, [not flag for flag in static]), strict=True):
            if any(heads):
                read[:, heads] = part(layer, queries[:, heads], keys[:, heads], values[:, heads])
        return read

    def run(self, latents: Tensor, sigma: float, conditions: Conditions) -> Tensor:
        """Velocity of the open chunk."""
        for part in self.parts:
            part.place, part.writes = None, False
        return self.model(latents, latents.new_full(latents.shape[:2], sigma), conditions, self)

    def commit(self, latents: Tensor, conditions: Conditions) -> None:
        """The open chunk becomes past, in all groups."""
        for part in self.parts:
            part.place, part.writes = None, True
        with torch.no_grad():
            self.model(latents, torch.zeros_like(latents[:, :, 0, 0, 0]), conditions, self)
        for part in self.parts:
            part.slots |= {frame: frame for frame in part.chunk}
            part.merged |= {frame: [frame] for frame in part.chunk}


Player = ListPlayer | HeadPlayer


def list_player(model: VideoTransformer, policy: Choosing | HeadWise, max_chunk: int, score: Score | None = None) -> Player:
    """A fresh player; the archive's room is counted by hand: two tensors of every layer, and the note."""
    config = model.config
    if isinstance(policy, HeadWise):
        rules = SinkWindow(policy.sink, policy.window), Different(policy.frames, policy.recent, policy.grain)
        static = policy.heads or [range(policy.static)] * config.num_layers
        return HeadPlayer(model, static, [ListPlayer(model, rule, 0, score or SCORES[policy.criterion]) for rule in rules])
    numbers = config.num_layers * config.dim
    note = 2 if policy.criterion == "place" else numbers
    frame = 8 * (2 * numbers * config.grid.tokens + note)
    shelf = int(policy.host_mib * 2**20) // frame if isinstance(policy, Retrieval) else 0
    return ListPlayer(model, policy, shelf, score or SCORES[policy.criterion])
