"""Scores of generated clips: every metric as one value per episode and generated frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.core.streams import numpy_stream
from mutoscope.data.clips import ClipDataset
from mutoscope.data.worlds.tiles import TILE_PIXELS, classify_tiles
from mutoscope.evaluate.clips import RealClips
from mutoscope.evaluate.config import EvaluateConfig, Part
from mutoscope.evaluate.metrics.following import MOTIONS, MotionScale, calibrate, following, right_direction, true_motion
from mutoscope.evaluate.metrics.motion import flow_features
from mutoscope.evaluate.metrics.psnr import psnr
from mutoscope.evaluate.metrics.scroll import forgetful_tiles, position_error, tile_scores
from mutoscope.evaluate.metrics.sharpness import sharpness
from mutoscope.evaluate.metrics.ssim import ssim

Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class MetricInfo:
    """How a metric reads: its title, whether more or less is better, and whether horizon k means frame k or frames 1 to k."""

    title: str
    better: Literal["higher", "lower", "nearer to 0"]
    span: Literal["at frame k", "frames 1 to k"]


METRICS: dict[str, MetricInfo] = {
    "psnr": MetricInfo("PSNR against the real continuation, dB", "higher", "at frame k"),
    "ssim": MetricInfo("SSIM against the real continuation", "higher", "at frame k"),
    "sharpness": MetricInfo("sharpness: log ratio of gradient energy to the real clip", "nearer to 0", "frames 1 to k"),
    "sharpness_error": MetricInfo("sharpness error: size of that log ratio", "lower", "frames 1 to k"),
    "turn_right": MetricInfo("share of turning frames that turn the right way, where the real clip scores", "higher", "frames 1 to k"),
    "turn_error": MetricInfo("turn-size error, as a share of the true turn", "lower", "frames 1 to k"),
    "step_right": MetricInfo("share of walking frames that walk the right way, where the real clip scores", "higher", "frames 1 to k"),
    "step_error": MetricInfo("step-size error, as a share of the true step", "lower", "frames 1 to k"),
    "position_error": MetricInfo("position error, tiles", "lower", "at frame k"),
    "tiles_window": MetricInfo("share of tiles right among those seen within memory", "higher", "at frame k"),
    "tiles_seen": MetricInfo("share of tiles right that stood in the real context", "higher", "at frame k"),
    "tiles_kept": MetricInfo("share of tiles kept that the world itself brought in", "higher", "at frame k"),
    "tiles_new": MetricInfo("share of tiles right among those entering now (chance, for an honest world)", "higher", "at frame k"),
}


def missing_arrays(part: Part, clips: RealClips) -> tuple[str, ...]:
    """The arrays that a part needs and the data set does not have."""
    needed: dict[Part, tuple[str, ...]] = {"following": ("pose",), "tiles": ("tiles", "position")}
    return tuple(name for name in needed.get(part, ()) if name not in clips.arrays)


def fidelity_scores(frames: np.ndarray, clips: RealClips) -> Scores:
    """Generated frames uint8 `[clips, n, H, W, 3]` -> float64 `[clips, n]` per metric."""
    real = clips.future_frames
    ratio = sharpness(frames, real)
    return {"psnr": psnr(frames, real), "ssim": ssim(frames, real), "sharpness": ratio, "sharpness_error": np.abs(ratio)}


def tiles_scores(frames: np.ndarray, clips: RealClips, memory_frames: int) -> Scores:
    """Exact scores on worlds that record their tiles: float64 `[clips, n]` per metric."""
    with_last = clips.with_last_context(frames)
    position, start = clips.arrays["position"], clips.context - 1
    errors = [position_error(made, place[start:], TILE_PIXELS) for made, place in zip(with_last, position, strict=True)]
    return {"position_error": np.stack(errors), **shares_of_tiles([classify_tiles(made) for made in frames], clips, memory_frames)}


def shares_of_tiles(shown: Sequence[np.ndarray], clips: RealClips, memory_frames: int) -> Scores:
    """Shown kinds int `[n, rows, columns]` per clip -> share of right ones per group, float64 `[clips, n]`."""
    shares = [
        tile_scores(made, true, place, context=clips.context, memory_frames=memory_frames)
        for made, true, place in zip(shown, clips.arrays["tiles"], clips.arrays["position"], strict=True)
    ]
    return {f"tiles_{group}": np.stack([share[group] for share in shares]) for group in shares[0]}


def forgetful_scores(clips: RealClips, memory_frames: int, seed: int) -> Scores:
    """Tile scores of a world that copies what is in view and forgets the rest: float64 `[clips, n]` per metric."""
    generator = numpy_stream(seed, "forgetful tiles")
    pairs = zip(clips.arrays["tiles"], clips.arrays["position"], strict=True)
    return shares_of_tiles([forgetful_tiles(true, place, clips.context, generator) for true, place in pairs], clips, memory_frames)


@dataclass(frozen=True)
class FollowingReference:
    """Calibration on real episodes, two-fold by their place, so that no clip is measured by a scale that was fitted to its episode.

    folds int `[clips]`; true, measured float `[clips, n, 2]`: the true motions, and those measured on the real clips.
    """

    scales: tuple[MotionScale, MotionScale]
    folds: np.ndarray
    true: np.ndarray
    measured: np.ndarray

    def counted(self, motion: int) -> np.ndarray:
        """Frames on which the camera really moved: bool `[clips, n]`."""
        smallest = np.array([scale.smallest[motion] for scale in self.scales])[self.folds]
        size = np.abs(self.true[..., motion])
        return (size > 0) & (size >= smallest[:, None])


def measure_motion(frames: np.ndarray, scales: tuple[MotionScale, MotionScale], folds: np.ndarray) -> np.ndarray:
    """Clips uint8 `[clips, 1 + n, H, W, 3]` -> turn and step `[clips, n, 2]`, each clip by the scale of its fold."""
    return np.stack([scales[fold].measure(flow_features(clip)) for clip, fold in zip(frames, folds, strict=True)])


def following_reference(dataset: ClipDataset, clips: RealClips, config: EvaluateConfig) -> FollowingReference:
    """Calibrate flow against the true pose; clips of even episodes are measured by the scale of odd ones, and the other way round."""
    scales = (fit_scale(dataset, 1, config.calibration_frames), fit_scale(dataset, 0, config.calibration_frames))
    folds, names, start = clips.places % 2, dataset.world.pose_names, clips.context - 1
    true = np.stack([true_motion(pose[start:], names) for pose in clips.arrays["pose"]])
    measured = measure_motion(clips.arrays["frames"][:, start:], scales, folds)
    return FollowingReference(scales, folds, true, measured)


def fit_scale(dataset: ClipDataset, parity: int, num_frames: int) -> MotionScale:
    """A scale from whole episodes at even (0) or odd (1) places, as many as hold `num_frames` frames."""
    features, motions, total = [], [], 0
    for place in range(parity, len(dataset.episodes), 2):
        stop = dataset.episodes[place].num_frames
        if total < num_frames and stop > 1:
            rows = dataset.read(place, 0, stop, ("frames", "pose"))
            features.append(flow_features(rows["frames"]))
            motions.append(true_motion(rows["pose"], dataset.world.pose_names))
            total += stop
    if not features:
        raise DataError(f"calibrating motion needs at least 2 episodes, {dataset.path} has {len(dataset.episodes)}")
    return calibrate(np.concatenate(features), np.concatenate(motions))


def following_scores(frames: np.ndarray, clips: RealClips, reference: FollowingReference) -> Scores:
    """Over the frames on which the camera moved and the real clip scores: float64 `[clips, n]` per metric."""
    measured = measure_motion(clips.with_last_context(frames), reference.scales, reference.folds)
    return _motion_scores(measured, reference, only_where_real_scores=(True, True))


def real_following_scores(reference: FollowingReference) -> Scores:
    """The real clips' own score: direction over all frames on which the camera moved, size over those with the right direction."""
    return _motion_scores(reference.measured, reference, only_where_real_scores=(False, True))


def _motion_scores(measured: np.ndarray, reference: FollowingReference, only_where_real_scores: tuple[bool, bool]) -> Scores:
    scores: Scores = {}
    for motion, name in enumerate(MOTIONS):
        true, moved = reference.true[..., motion], reference.counted(motion)
        scored = moved & right_direction(reference.measured[..., motion], true)
        masks = [scored if only else moved for only in only_where_real_scores]
        scores[f"{name}_right"] = following(measured[..., motion], true, masks[0])[0]
        scores[f"{name}_error"] = following(measured[..., motion], true, masks[1])[1]
    return scores


def score_clips(frames: np.ndarray, clips: RealClips, config: EvaluateConfig, reference: FollowingReference | None) -> Scores:
    """All per-frame scores that the data set allows, per episode: float64 `[episodes, n]` per metric."""
    scores: Scores = {}
    if "fidelity" in config.parts:
        scores |= fidelity_scores(frames, clips)
    if reference is not None:
        scores |= following_scores(frames, clips, reference)
    if "tiles" in config.parts and not missing_arrays("tiles", clips):
        scores |= tiles_scores(frames, clips, config.memory_frames)
    return {name: clips.by_episode(values) for name, values in scores.items()}
