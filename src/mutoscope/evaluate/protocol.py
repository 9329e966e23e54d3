"""The evaluation itself: held-out clips, every candidate on the same ones, scores paired by episode, one report."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mutoscope.core.errors import ConfigError, DataError, optional_import
from mutoscope.core.files import portable
from mutoscope.core.progress import Progress
from mutoscope.core.streams import derive_seed
from mutoscope.data.clips import ClipDataset
from mutoscope.evaluate.candidates import COPY_LAST, Candidate, Given, copy_last_candidate
from mutoscope.evaluate.clips import RealClips, long_play, select_clips
from mutoscope.evaluate.config import PARTS, EvaluateConfig
from mutoscope.evaluate.distances import Distance, bootstrap_distance, clip_features, halves_distance
from mutoscope.evaluate.long_play import StabilityReference, join, stability_reference, watch
from mutoscope.evaluate.metrics.features import ClipFeatures, Extractor
from mutoscope.evaluate.report import write_report
from mutoscope.evaluate.results import CandidateResult, RealResult, Results
from mutoscope.evaluate.scoring import (
    FollowingReference,
    Scores,
    following_reference,
    missing_arrays,
    real_following_scores,
    score_clips,
)


@dataclass(frozen=True)
class Bench:
    """What all candidates are measured with: the real clips, and the references made from them once."""

    config: EvaluateConfig
    clips: RealClips
    following: FollowingReference | None
    extract: Extractor | None
    real_features: dict[int, np.ndarray]
    play: RealClips | None
    stability: StabilityReference | None


def evaluate(
    candidates: Sequence[Candidate],
    dataset: ClipDataset,
    config: EvaluateConfig,
    output: Path,
    load_extractor: Callable[[str], Extractor] = ClipFeatures,
) -> dict:
    """Score candidates (copy-last is added) and write the report into `output`; returns what stands in its results.json."""
    if Path(output).exists() and not Path(output).is_dir():
        raise ConfigError(f"{output} is a file; the report needs a folder. Choose another --output")
    candidates = with_copy_last(candidates)
    bench = set_up(dataset, config, load_extractor)
    with Progress(total_frames(candidates, bench), "evaluating, frames") as bar:
        scored = tuple(assess(candidate, bench, bar) for candidate in candidates)
    results = Results(config, dataset.world, portable(dataset.path), bench.clips, scored, real_result(bench), left_out(bench))
    return write_report(results, output)


def with_copy_last(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates and the copy-last baseline; labels must differ and `against` must name candidates."""
    complete = [*candidates, copy_last_candidate()]
    labels = [candidate.label for candidate in complete]
    if len(candidates) == 0 or len(set(labels)) < len(labels):
        raise ConfigError(f"candidates need distinct labels other than '{COPY_LAST}', at least one, got {labels[:-1]}")
    for candidate in complete:
        if unknown := sorted(set(candidate.against) - set(labels)):
            raise ConfigError(f"'{candidate.label}' is to be compared with {', '.join(unknown)}; known: {', '.join(labels)}")
    return complete


def set_up(dataset: ClipDataset, config: EvaluateConfig, load_extractor: Callable[[str], Extractor]) -> Bench:
    """Read the clips, calibrate on them. Optional packages are asked for here, before any frame is generated."""
    optional_import("matplotlib.figure", package="matplotlib", extra="evaluate")
    optional_import("PIL.Image", package="pillow", extra="play")
    extract = load_extractor(config.device) if "frechet" in config.parts else None
    clips = select_clips(dataset, config)
    follows = "following" in config.parts and not missing_arrays("following", clips)
    plays = "stability" in config.parts
    with Progress(3, "measuring the real clips, parts") as bar:
        reference = following_reference(dataset, clips, config) if follows else None
        bar.advance(1, "action following")
        features = {} if extract is None else clip_features(clips.future_frames, config.horizons, extract)
        bar.advance(1, "features")
        stability = stability_reference(dataset, config) if plays else None
        bar.advance(1, "stability")
    return Bench(config, clips, reference, extract, features, long_play(dataset, config) if plays else None, stability)


def left_out(bench: Bench) -> tuple[str, ...]:
    """Which parts were left out, and why."""
    asked = [part for part in PARTS if part in bench.config.parts]
    unfit = {part: missing_arrays(part, bench.clips) for part in asked}
    skipped = [f"{part}: not asked for" for part in PARTS if part not in asked]
    return (*skipped, *(f"{part}: the data set has no array {' and no '.join(names)}" for part, names in unfit.items() if names))


def total_frames(candidates: Sequence[Candidate], bench: Bench) -> int:
    """Frames to generate, for the progress line."""
    config, students = bench.config, sum(candidate.role == "student" for candidate in candidates)
    short = len(candidates) * len(bench.clips.episodes) * len(config.seeds) * config.length
    return short + (students * config.stability_seeds * config.stability_frames if bench.play is not None else 0)


def assess(candidate: Candidate, bench: Bench, bar: Progress) -> CandidateResult:
    """Everything that is measured of one candidate."""
    config, clips = bench.config, bench.clips
    made = [np.concatenate(list(generate_batches(candidate, clips, config.length, seed, config, bar))) for seed in config.seeds]
    bar.advance(0, f"{candidate.label}: measuring")
    scores = mean_scores([score_clips(frames, clips, config, bench.following) for frames in made])
    stability = None
    if bench.play is not None and bench.stability is not None and candidate.role == "student":
        seed = derive_seed(config.seed, "stability")
        batches = generate_batches(candidate, bench.play, config.stability_frames, seed, config, bar)
        stability = join([watch(list(frames), bench.stability) for frames in batches])
    return CandidateResult(candidate, scores, distances(made, bench), stability, made[0][0])


def mean_scores(per_seed: Sequence[Scores]) -> Scores:
    """The mean over noise seeds, so that the bootstrap runs over episodes alone."""
    return {name: np.mean([scores[name] for scores in per_seed], axis=0) for name in per_seed[0]}


def distances(made: Sequence[np.ndarray], bench: Bench) -> dict[int, Distance]:
    """Frechet distance to the real clips at each horizon, over the clips of all seeds."""
    if bench.extract is None:
        return {}
    episodes = np.tile(bench.clips.episodes, len(made))
    features = clip_features(np.concatenate(list(made)), bench.config.horizons, bench.extract)
    repeated = {horizon: np.tile(real, (len(made), 1)) for horizon, real in bench.real_features.items()}
    return {horizon: bootstrap_distance(features[horizon], repeated[horizon], episodes, bench.config) for horizon in features}


def generate_batches(
    candidate: Candidate, clips: RealClips, length: int, seed: int, config: EvaluateConfig, bar: Progress
) -> Iterator[np.ndarray]:
    """Continue the clips, `batch_size` at a time: yields uint8 `[B, length, H, W, 3]`, checked."""
    for start in range(0, len(clips.episodes), config.batch_size):
        rows = slice(start, start + config.batch_size)
        frames, actions = clips.context_frames[rows], clips.arrays["actions"][rows].astype(np.float32)
        past, future = actions[:, : clips.context], actions[:, clips.context : clips.context + length]
        done = bar.done
        given = Given(frames, past, future, clips.captions[rows])
        made = candidate.generate(given, derive_seed(seed, "batch", start), _advance(bar, len(frames), candidate.label))
        wanted = (len(frames), length, *frames.shape[2:])
        if made.shape != wanted or made.dtype != np.uint8:
            raise DataError(f"'{candidate.label}' made {made.dtype} {list(made.shape)}; it must be uint8 {list(wanted)}")
        bar.advance(done + len(frames) * length - bar.done, candidate.label)
        yield made


def _advance(bar: Progress, rows: int, label: str) -> Callable[[int], None]:
    return lambda frames: bar.advance(rows * frames, label)


def real_result(bench: Bench) -> RealResult:
    """The real clips' own scores, to hold the candidates against."""
    own = {} if bench.following is None else real_following_scores(bench.following)
    return RealResult(
        {name: bench.clips.by_episode(values) for name, values in own.items()},
        {horizon: halves_distance(features, bench.clips.episodes) for horizon, features in bench.real_features.items()},
        bench.stability,
    )
