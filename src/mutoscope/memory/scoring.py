"""What content says about frames: notes taken of them when they are committed, and scores from these. Pure functions on tensors.

A note is a sum over a frame's tokens, so that a score costs as much for a thousand tokens as for one: `sum_i sum_j q_i . k_j` is
`(sum_i q_i) . (sum_j k_j)`. Notes are in float64: they are compared, and the order of a sum must not decide.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mutoscope.core.errors import ConfigError
from mutoscope.memory.choosing import Criterion

NOTE_TYPE = torch.float64


def note_shape(criterion: Criterion, layers: int, heads: int, head_dim: int) -> tuple[int, ...]:
    """Of one frame's note: per layer its queries and keys (participation) or one of them (tokens' participation, the three others), or
    its place. What tokens changed is noted token by token, in the store."""
    shapes: dict[Criterion, tuple[int, ...]] = {
        "participation": (layers, 2, heads, head_dim),
        "tokens' participation": (layers, 1, heads, head_dim),
        "similarity": (layers, 1, heads, head_dim),
        "repetition": (layers, 1, heads, head_dim),
        "difference": (layers, 1, heads, head_dim),
        "tokens' change": (0,),
        "place": (2,),
        "nothing": (0,),
    }
    return shapes[criterion]


def token_sums(x: Tensor, frames: int) -> Tensor:
    """Queries or keys `[row, head, frames * tokens, D]` summed over each frame's tokens: `[row, frame, head, D]` float64."""
    return x.to(NOTE_TYPE).unflatten(2, (frames, -1)).sum(3).transpose(1, 2)


def participation(keys: Tensor, queries: Tensor) -> Tensor:
    """`sum q . k` over recent frames, tokens, layers and heads: keys `[n, ..., D]`, queries `[recent, ..., D]` -> `[n]` (2512.05081)."""
    return (keys * queries.sum(0)).flatten(1).sum(1)


def similarity(keys: Tensor, newest: Tensor) -> Tensor:
    """The cosine between mean keys `[n, layer, head, D]` and those of the newest frame `[1, layer, head, D]`, averaged -> `[n]`."""
    return cosine_similarity(keys, newest, dim=-1).flatten(1).mean(1)


def repetition(keys: Tensor, positions: tuple[int, ...], before: Tensor, before_positions: tuple[int, ...]) -> Tensor:
    """`similarity` of each `[n, ...]` to that of `before` which stands one position before it -> `[n]`; -inf where none does."""
    place = {position: index for index, position in enumerate(before_positions)}
    missing = keys.new_full((), -torch.inf)
    pairs = [(index, place.get(position - 1)) for index, position in enumerate(positions)]
    found = [missing if other is None else similarity(keys[index, None], before[other, None])[0] for index, other in pairs]
    return torch.stack(found)


def difference(keys: Tensor, recent: int) -> Tensor:
    """Farthest-first traversal of mean keys `[n, layer, head, D]`, oldest first: scores `[n]` that fall by 1 in the order of choice.

    The last `recent` are chosen beforehand and score 0. Then always the one follows whose largest `similarity` to all that were chosen
    before is smallest; of equal ones the oldest.
    """
    count = len(keys)
    alike = torch.stack([similarity(keys, one[None]) for one in keys]).tolist()
    scores, waiting = [0.0] * count, list(range(count - recent))
    nearest = [max(alike[index][count - recent :], default=0.0) for index in waiting]
    for place in range(len(waiting)):
        chosen = min(waiting, key=lambda index: nearest[index])
        waiting.remove(chosen)
        scores[chosen] = -1.0 - place
        nearest = [max(value, alike[index][chosen]) for index, value in enumerate(nearest)]
    return torch.tensor(scores, dtype=NOTE_TYPE)


def nearness(places: Tensor, place: Tensor) -> Tensor:
    """Minus the distance between `[n, 2]` and `[1, 2]` -> `[n]`."""
    return -(places - place).norm(dim=-1)


def best_first(candidates: tuple[int, ...], scores: dict[int, float]) -> tuple[int, ...]:
    """Frames by falling score; of equal ones the newer first."""
    return tuple(sorted(candidates, key=lambda frame: (scores[frame], frame), reverse=True))


class Scorer(Protocol):
    """Compares notes; it stands beside a store and runs once per chunk. Positions are those at which the noted keys stand now."""

    def asking(self, recent: Tensor, travelled: Tensor) -> Tensor:
        """What candidates are held against, as notes `[asking, ...]`: those of recent frames, or the place of the chunk to come.

        `travelled` `[action]` is what the player will have done by the end of that chunk.
        """
        ...

    def scores(self, notes: Tensor, positions: tuple[int, ...], asking: Tensor, asking_positions: tuple[int, ...]) -> Tensor:
        """Notes `[n, ...]` -> scores `[n]`, the higher the better.

        Where tokens are chosen: one layer's keys as they stand `[n, head, D]`, and of that layer's notes `[asking, part, head, D]` ->
        `[n, head]`; positions of keys that are turned already are not needed.
        """
        ...


class NoScorer:
    """Stands beside stores whose policies never ask."""

    def asking(self, recent: Tensor, travelled: Tensor) -> Tensor:
        """There is nothing to ask."""
        raise ConfigError("this memory was made without a scorer; make it with the model's new_store")

    def scores(self, notes: Tensor, positions: tuple[int, ...], asking: Tensor, asking_positions: tuple[int, ...]) -> Tensor:
        """There is nothing to compare."""
        raise ConfigError("this memory was made without a scorer; make it with the model's new_store")


NO_SCORER = NoScorer()
