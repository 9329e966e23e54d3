"""The report of an evaluation: results.json, report.md and pictures, each written whole or not at all."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mutoscope.core.config import to_plain
from mutoscope.core.files import write_bytes, write_json
from mutoscope.core.provenance import provenance
from mutoscope.evaluate.metrics.detectors import DETECTORS
from mutoscope.evaluate.metrics.frechet import NOT_FVD
from mutoscope.evaluate.metrics.scroll import chance
from mutoscope.evaluate.metrics.stability import STATISTICS
from mutoscope.evaluate.pictures import draw_clips, draw_curves, draw_stability
from mutoscope.evaluate.results import CandidateResult, Results
from mutoscope.evaluate.scoring import METRICS, forgetful_scores, missing_arrays
from mutoscope.evaluate.tables import markdown


def write_report(results: Results, output: Path) -> dict:
    """Write everything into the folder `output`; returns the content of results.json."""
    output = Path(output)
    plain = as_plain(results)
    write_json(output / "results.json", plain)
    pictures = [draw_clips(results, output / "clips.png"), draw_curves(results, output / "curves.png")]
    pictures.append(draw_stability(results, output / "stability.png"))
    write_bytes(output / "report.md", markdown(plain, [path.name for path in pictures if path is not None]).encode())
    return plain


def as_plain(results: Results) -> dict:
    """The whole evaluation as strict JSON (NaN becomes null)."""
    return finite_or_null(
        {
            "provenance": provenance(),
            "protocol": protocol(results),
            "metrics": {name: asdict(info) for name, info in METRICS.items()},
            "candidates": {result.candidate.label: candidate_plain(result, results) for result in results.candidates},
            "real": real_plain(results),
            "comparisons": [asdict(comparison) for comparison in results.comparisons()],
        }
    )


def protocol(results: Results) -> dict:
    """What was done, in figures and words."""
    config, clips = results.config, results.clips
    notes = [
        f"{clips.num_episodes} held-out episodes, {len(clips.episodes)} clips of {config.context_frames} real frames of context and "
        f"{config.length} generated ones under the real actions, {len(config.seeds)} noise seed(s); open loop, rows paired by episode.",
        f"Intervals are 95 % percentile bootstraps over episodes ({config.bootstrap_repeats} draws; Frechet {config.frechet_repeats}); "
        "those of long play are over seeds.",
    ]
    if "frechet" in config.parts:
        notes.append(NOT_FVD)
    return {
        "world": to_plain(results.world),
        "data": results.data,
        "config": to_plain(config),
        "notes": notes,
        "left_out": list(results.left_out),
    }


def candidate_plain(result: CandidateResult, results: Results) -> dict:
    """A candidate's metrics, as one interval per generated frame."""
    config = results.config
    stability = {} if result.stability is None else result.stability.intervals(config.bootstrap_repeats, config.seed)
    return {
        "role": result.candidate.role,
        "against": list(result.candidate.against),
        "metrics": {name: [asdict(results.interval(column)) for column in values.T] for name, values in result.scores.items()},
        "frechet": {str(horizon): asdict(distance.interval()) for horizon, distance in result.distances.items()},
        "stability": {name: asdict(interval) for name, interval in stability.items()},
    }


def real_plain(results: Results) -> dict:
    """The real clips' own figures."""
    real = results.real
    plain: dict[str, Any] = {
        "metrics": {name: [asdict(results.interval(column)) for column in values.T] for name, values in real.scores.items()},
        "frechet_halves": {str(horizon): distance for horizon, distance in real.halves.items()},
    }
    if "tiles" in results.clips.arrays:
        plain["tile_chance"] = chance(results.clips.arrays["tiles"])
    if not missing_arrays("tiles", results.clips):
        scores = forgetful_scores(results.clips, results.config.memory_frames, results.config.seed)
        by_episode = {name: results.clips.by_episode(values) for name, values in scores.items()}
        plain["forgetful"] = {name: [asdict(results.interval(column)) for column in values.T] for name, values in by_episode.items()}
    if real.stability is not None:
        bounds = real.stability.detectors.real
        plain["stability"] = {
            "share_inside_other_real_clips": real.stability.real_share,
            "windows": bounds.windows,
            "range": {name: [float(bounds.low[place]), float(bounds.high[place])] for place, name in enumerate(STATISTICS)},
            "detectors": list(DETECTORS),
        }
    return plain


def finite_or_null(value: Any) -> Any:
    """Nested plain data with NaN and infinities as None, which strict JSON can hold."""
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
