"""How much of the past can be read from hidden states: a linear classifier of tiles that left the view, judged on episodes kept for it.

Features of a frame go in, the kinds of the tiles that were in view some frames before come out. The classifier is a ridge regression on
one-hot kinds in closed form; how strong the ridge is, validation episodes decide. The world is random per episode, so what is not carried
along in the features can only be guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mutoscope.core.errors import DataError
from mutoscope.core.streams import stream
from mutoscope.evaluate.recall import RecallClips

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Split:
    """Episodes to fit on, to choose the ridge's strength on, and to be judged on, as indices; none is in two of them."""

    fit: Tensor
    choose: Tensor
    judge: Tensor


@dataclass(frozen=True)
class PastTiles:
    """What is asked: `frames` `[sample]` and the kinds `[episode, sample, lag, tile]` in view that many frames before each of them."""

    frames: np.ndarray
    tiles: Tensor


def split_episodes(episodes: int, seed: int) -> Split:
    """A random half to fit on, a quarter to choose on, the rest to be judged on."""
    if episodes < 4:
        raise DataError(f"a probe needs at least 4 episodes to fit, choose and judge on, got {episodes}")
    order = torch.randperm(episodes, generator=stream(seed, "probe split"))
    return Split(*order.tensor_split([episodes // 2, 3 * episodes // 4]))


def past_tiles(clips: RecallClips, lags: Sequence[int]) -> PastTiles:
    """The frames of a steady turn whose views of `lags` frames before are all wholly out of sight, and what those showed."""
    view = clips.tiles.shape[2:]
    steady = np.ones(clips.tiles.shape[1], bool)
    for lag in lags:
        steady[:lag] = False
        moved = clips.position[0, lag:] - clips.position[0, :-lag]
        fastest = moved[np.abs(moved).sum(axis=1).argmax()]
        if (np.abs(fastest) < view).all():
            raise DataError(f"no view of {lag} frames before is out of sight in these clips; turn for longer or give larger lags")
        steady[lag:] &= (moved == fastest).all(axis=1)
    frames = np.flatnonzero(steady)
    if not len(frames):
        raise DataError(f"these clips have no frame whose views of {', '.join(map(str, lags))} frames before are all out of sight")
    tiles = np.stack([clips.tiles[:, frames - lag] for lag in lags], axis=2)
    return PastTiles(frames, torch.from_numpy(tiles.astype(np.int64)).flatten(3))


def linearly_readable(features: Tensor, tiles: Tensor, kinds: int, split: Split) -> Tensor:
    """Balanced accuracy `[lag]` of the best linear guess of `tiles` `[episode, sample, lag, tile]` from `[episode, sample, feature]`.

    Guessing gives 1 / `kinds`.
    """
    parts = [features[part].flatten(0, 1).double() for part in (split.fit, split.choose, split.judge)]
    centre, spread = parts[0].mean(dim=0), parts[0].std(dim=0).clamp_min(SMALLEST_SPREAD)
    fit, choose, judge = ((part - centre) / spread for part in parts)
    known, *true = (tiles[part].flatten(0, 1) for part in (split.fit, split.choose, split.judge))
    wanted = one_hot(known, kinds).flatten(1).double()
    gram, told = fit.T @ fit / len(fit), fit.T @ (wanted - wanted.mean(dim=0)) / len(fit)
    scores = []
    for strength in STRENGTHS:
        weights = torch.cholesky_solve(told, torch.linalg.cholesky(gram + strength * torch.eye(len(gram)).to(gram)))
        guesses = [(part @ weights + wanted.mean(dim=0)).unflatten(1, (*tiles.shape[2:], kinds)).argmax(-1) for part in (choose, judge)]
        scores.append(torch.stack([balanced_accuracy(*pair, kinds) for pair in zip(guesses, true, strict=True)]))
    chosen, judged = torch.stack(scores, dim=1)
    return judged.gather(0, chosen.argmax(dim=0, keepdim=True))[0]


def balanced_accuracy(guesses: Tensor, true: Tensor, kinds: int) -> Tensor:
    """Share guessed right of each kind, averaged over the kinds that there are: `[sample, lag, tile]` -> `[lag]`."""
    of_kind = one_hot(true, kinds).double()
    right = (of_kind * (guesses == true)[..., None]).sum(dim=(0, 2))
    there = of_kind.sum(dim=(0, 2))
    return (right / there.clamp_min(1)).sum(dim=-1) / (there > 0).sum(dim=-1)
