"""The study of depth and memory: its grid, its pieces end to end at toy size, and that finished pieces are not run again."""

import shutil
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch

from mutoscope.commands.recording import record_recipe
from mutoscope.core.config import to_plain
from mutoscope.core.errors import DataError
from mutoscope.core.files import read_json, write_json
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.tiles import TILE_PIXELS
from mutoscope.evaluate.recall import RecallTask, play_truth
from mutoscope.memory.policy import Full, Window, state_of
from mutoscope.models.checkpoint import read_manifest
from mutoscope.recipes.ring import ring_smoke, ring_with
from mutoscope.studies.depth_dreamed import DreamedConfig, ask_dreamed, read_dreamed
from mutoscope.studies.depth_memory import (
    LAST_PASS,
    LONGER,
    MEMORIES,
    NAMES,
    TAUGHT,
    WINDOW,
    Piece,
    StudyConfig,
    grid,
    is_done,
    piece_hash,
    piece_run,
    run_piece,
)
from mutoscope.studies.depth_probe import ProbeConfig
from mutoscope.studies.depth_report import BEYOND, comparisons, crossed, mean_recall, read_pieces, write_report
from mutoscope.studies.depth_speed import SpeedConfig, read_speed, time_memories
from mutoscope.train.config import MatchingStage
from mutoscope.train.parallel import Workers

PROBE = ProbeConfig(RecallTask(lead=6, away=8), lags=(4, 6), episodes=8)
SMALL = StudyConfig(lead=4, away=(8,), episodes=2, probe=PROBE)


def test_the_grid_has_every_memory_and_its_seeds():
    counts = Counter(piece.memory for piece in grid())
    assert set(counts) == set(NAMES) == {*MEMORIES, *LAST_PASS, *TAUGHT, *LONGER}
    assert (
        counts["full"] == counts["fast-weights"] == 5
        and counts["window"] == counts["window+linear"] == counts["window+linear, taught"] == 3
    )
    assert len(set(grid())) == len(grid()) == 50 + 3
    assert all(counts[name] == 3 for name in NAMES if "last pass" in name)
    assert ["last pass" in name for name in NAMES] == [False] * 11 + [True] * 4, "after the others, and each once"
    assert [piece.seed for piece in grid()] == sorted(piece.seed for piece in grid())


def test_last_passes_and_taught_writes_are_crossed():
    """A chain of its own for each pass that writes; gradient into the writes branches off it at matching."""
    runs = {name: piece_run(ring_with, Piece(name, 0)) for name in NAMES}
    for base in ("window+fast-weights", "window+linear"):
        cells = [runs[base + end] for end in ("", ", taught", ", last pass", ", last pass, taught")]
        assert [state_of(run.memory).written_from for run in cells] == ["commit", "commit", "last pass", "last pass"]
        writes = [{stage.memory_writes for stage in run.stages if isinstance(stage, MatchingStage)} for run in cells]
        assert writes == [{"frozen"}, {"taught"}, {"frozen"}, {"taught"}]
        assert Piece(f"{base}, last pass, taught", 0).base == Piece(f"{base}, last pass", 0) == Piece(f"{base}, last pass", 0).base
    assert Piece("window+linear, last pass, taught", 2).name == "window+linear-last-pass-taught-seed2"


def test_longer_rollouts_branch_off_at_matching_and_differ_in_nothing_else():
    piece = Piece("fast-weights, longer rollouts", 2)
    own, base = (piece_run(ring_with, each) for each in (piece, piece.base))
    matched = [stage for stage in own.stages if isinstance(stage, MatchingStage)]
    assert [stage.frames_beyond_clip for stage in matched] == [64] * 3
    assert replace(own, stages=()) == replace(base, stages=()) and base.memory == own.memory
    undone = [replace(stage, frames_beyond_clip=0) if isinstance(stage, MatchingStage) else stage for stage in own.stages]
    assert tuple(undone) == base.stages
    assert piece.base == Piece("fast-weights", 2) and piece.folder == "fast-weights-longer-rollouts-seed2"
    assert [each.seed for each in grid() if each.memory == piece.memory] == [2, 3, 4]


def test_every_memory_is_trained_where_frames_are_evicted():
    for name in MEMORIES:
        run = piece_run(ring_with, Piece(name, 0))
        assert isinstance(run.memory, Full) == (name == "full")
        assert name == "full" or run.memory.capacity(1) * 4 <= run.clip_frames
    assert piece_run(ring_with, Piece("full", 0)).memory == Full(64)


def test_the_hash_names_memory_seed_recipe_and_questions():
    hashes = {piece_hash(ring_with, piece, SMALL) for piece in grid()}
    hashes |= {piece_hash(ring_with, grid()[0], StudyConfig()), piece_hash(ring_smoke, grid()[0], SMALL)}
    assert len(hashes) == len(grid()) + 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    data = record_recipe(ring_smoke(Window(4)).data, folder / "data")
    memories = ("sink+window", "window+fast-weights", "window+fast-weights, taught", "window+linear, last pass, taught")
    with pytest.MonkeyPatch.context() as patched:  # what a piece draws, and times frame by frame, is tested elsewhere
        patched.setattr("mutoscope.train.monitor._tensorboard", lambda folder: None)
        patched.setattr("mutoscope.train.pictures.plot_curves", lambda *given: None)
        patched.setattr("mutoscope.train.pictures.write_video", lambda *given: None)
        patched.setattr("mutoscope.train.pictures.SAMPLE_STEPS", 2)
        patched.setattr("mutoscope.studies.depth_memory.TIMED_FRAMES", 4)
        patched.setattr("mutoscope.studies.depth_memory.WARM_UP", 1)
        for memory in memories:
            run_piece(ring_smoke, Piece(memory, 1), SMALL, data, folder / "runs", folder / "results", Workers(0, 1, torch.device("cpu")))
    return folder


def test_a_piece_scores_every_depth(finished):
    figures = read_json(finished / "results" / "window+fast-weights-seed1.json")
    assert [row["depth"] for row in figures["rows"]] == ["teacher", "consistency", "4", "2", "1"]
    row = figures["rows"][-1]
    assert row["away"] == 8 and 0 <= row["identity"] <= 1 and row["bytes"] > 0 and row["within_clip"]
    assert set(figures["seconds_per_frame"]) == {"teacher", "consistency", "4", "2", "1"}
    assert 0.05 < figures["chance"] < 0.5 and figures["policy"]["is"] == "Stateful"


def test_a_piece_says_what_of_the_past_stands_in_its_hidden_states(finished):
    probe = read_json(finished / "results" / "window+linear-last-pass-taught-seed1.json")["probe"]
    asked = [(row["depth"], row["pass"], row["layer"], row["lag"]) for row in probe["rows"]]
    assert asked == [
        (depth, name, 1, lag) for depth in ("teacher", "consistency", "4", "2", "1") for name in ("commit", "last") for lag in (4, 6)
    ]
    assert probe["chance"] == 0.125 and all(0 <= row["accuracy"] <= 1 for row in probe["rows"])


def test_last_passes_are_written_in_the_manifest(finished):
    own, base = (finished / "runs" / "seed-1" / name for name in ("window+linear-last-pass-taught-seed1", "window+linear-last-pass"))
    assert read_manifest(own / "matching-1" / "checkpoint").memory_modules == ("linear: writing taught, from last passes",)
    assert state_of(read_manifest(base / "consistency" / "checkpoint").memory).written_from == "last pass"
    assert (own / "consistency").resolve() == (base / "consistency").resolve() and not (base / "matching-1").exists()


def test_pieces_of_a_seed_share_codec_and_teacher_and_differ_in_memory(finished):
    runs = finished / "runs" / "seed-1"
    for stage in ("codec", "bidirectional"):
        assert (runs / "sink+window" / stage).resolve() == (runs / "window+fast-weights" / stage).resolve()
    manifests = {name: read_manifest(runs / name / "matching-1" / "checkpoint") for name in ("sink+window", "window+fast-weights")}
    assert manifests["sink+window"].model.recall is None and not manifests["sink+window"].memory_modules
    assert manifests["window+fast-weights"].model.recall == state_of(manifests["window+fast-weights"].memory)
    assert "writing frozen" in manifests["window+fast-weights"].memory_modules[0]
    assert read_manifest(runs / "window+fast-weights" / "bidirectional" / "checkpoint").model.recall is None


def test_taught_writes_share_all_but_matching_and_say_so(finished):
    runs = finished / "runs" / "seed-1"
    own, base = runs / "window+fast-weights-taught-seed1", runs / "window+fast-weights"
    assert (own / "consistency").resolve() == (base / "consistency").resolve() and not (own / "matching-2").is_symlink()
    assert read_manifest(own / "matching-2" / "checkpoint").memory_modules == ("fast-mlp: writing taught",)
    assert (finished / "results" / "window+fast-weights-taught-seed1.json").is_file()


def test_checkpoints_are_asked_once_for_what_they_dreamed(finished):
    small = DreamedConfig(lead=4, away=(8, 10), episodes=2)
    ask = partial(ask_dreamed, data=ring_smoke(Window(4)).data, folder=finished / "runs", results=finished / "results", config=small)
    pieces = [Piece(memory, 1) for memory in ("window+fast-weights", "window+fast-weights, taught", "window")]
    assert [ask(piece) for piece in pieces] == [True, True, False] and not ask(pieces[0])
    found = read_dreamed(finished / "results")
    keys = {(piece.memory, depth, away) for piece in pieces[:2] for depth in ("teacher", "consistency", "4", "2", "1") for away in (8, 10)}
    assert found.keys() == keys and all(set(seeds) == {1} for seeds in found.values())
    teachers = [found[piece.memory, "teacher", 8] for piece in pieces[:2]]
    assert teachers[0] == teachers[1], "they share it, and episodes and noise are the same"


def test_memories_are_timed_in_turns(finished):
    seed = finished / "runs" / "seed-1"
    shutil.copytree(seed / "sink+window", seed / "full")
    for file in (seed / "full").glob("*/checkpoint/manifest.json"):
        write_json(file, to_plain(replace(read_manifest(file.parent), memory=Full(2))))  # too short: it is given room
    assert time_memories(finished / "runs", finished / "results", 1, SpeedConfig(4, 1)) == ("sink+window", "window+fast-weights", "full")
    rows = read_speed(finished / "results")
    assert len(rows) == 3 * 5 and all(row["ms"] > 0 for row in rows.values())
    assert all(row["ratio"] == 1 for (memory, _), row in rows.items() if memory == "sink+window")
    report = write_report(finished / "results")
    assert "## Time" in report and "## Landmarks that were dreamed" in report


def test_a_finished_piece_is_known_by_its_hash(finished):
    piece, results = Piece("sink+window", 1), finished / "results"
    assert is_done(results, ring_smoke, piece, SMALL)
    assert not is_done(results, ring_smoke, Piece("sink+window", 2), SMALL)
    assert not is_done(results, ring_smoke, piece, StudyConfig(lead=4, away=(9,), episodes=2, probe=PROBE))
    file = results / f"{piece.name}.json"
    write_json(file, read_json(file) | {"recipe_hash": "another"})
    assert not is_done(results, ring_smoke, piece, SMALL)


def planted(folder, recall, memories=("sink+window", "window+linear")):
    """Pieces of three seeds whose recall is what `recall(memory, depth, seed)` says; those of seed 0 are from before the probe."""
    for memory in memories:
        for seed in range(3):
            rows = [
                {"depth": depth, "away": away, "identity": recall(memory, depth, seed), "in_view": 1.0, "moved": 1.0, "psnr_db": 20.0,
                 "bytes": 1024, "within_clip": away < 64}
                for depth in ("teacher", "consistency", "4", "2", "1") for away in (24, 96)
            ]  # fmt: skip
            seconds = {depth: {"denoise": 0.01, "commit": 0.002} for depth in ("teacher", "consistency", "4", "2", "1")}
            head = {"memory": memory, "seed": seed, "chance": 0.125, "copy_sink": {"24": 0.1, "96": 0.1}}
            read = [
                {"depth": depth, "pass": name, "layer": layer, "lag": lag, "accuracy": 0.125 * layer + 0.01 * seed + 0.3 * (name == "last")}
                for depth in ("teacher", "1") for name in ("commit", "last") for layer in (1, 2) for lag in (4, 12)
            ]  # fmt: skip
            probe = {"probe": {"chance": 0.125, "rows": read}} if seed else {}
            write_json(folder / f"{memory}-seed{seed}.json", head | {"rows": rows, "seconds_per_frame": seconds} | probe)


def test_the_report_finds_planted_effects_and_only_those(tmp_path):
    def recall(memory: str, depth: str, seed: int) -> float:
        noise = 0.01 * ((7 * seed + len(depth) * 3 + len(memory)) % 5)
        linear = memory == "window+linear"
        return 0.2 + noise + 0.5 * linear - (0.3 if linear and depth == "1" else 0.0)

    planted(tmp_path, recall)
    found = comparisons(read_pieces(tmp_path))
    assert all(found[f"window+linear, {name}"]["gain"].excludes_zero for name in ("teacher, 16 steps", "2 steps", "1 step"))
    assert found["window+linear, 1 step"]["cost"].excludes_zero and found["window+linear, 1 step"]["cost"].mean == pytest.approx(
        0.3, abs=0.05
    )
    assert not found["window+linear, 2 steps"]["cost"].excludes_zero
    assert mean_recall(read_pieces(tmp_path), "sink+window", "1")[0] == pytest.approx(recall("sink+window", "1", 0))
    text = write_report(tmp_path)
    assert "k = 96 (x)" in text and "1 step" in text and (tmp_path / "recall.png").stat().st_size > 1000


def test_the_report_crosses_both_factors_of_writing(tmp_path):
    """Planted: writing from last passes costs .2, and letting gradient in gives .1 back, but with commits it does nothing."""

    def recall(memory: str, depth: str, seed: int) -> float:
        last, taught = "last pass" in memory, "taught" in memory
        return 0.6 + 0.01 * seed - 0.2 * last + (0.1 + 0.001 * seed) * (last and taught)

    planted(tmp_path, recall, [f"window+linear{end}" for end in ("", ", taught", ", last pass", ", last pass, taught")])
    found = crossed(read_pieces(tmp_path))
    assert set(found) == {"window+linear, 2 steps", "window+linear, 1 step"}
    means = [effect.mean for effect in found["window+linear, 1 step"].values()]
    assert means == pytest.approx([-0.2, -0.099, 0.0, 0.101], abs=1e-9)
    assert "| window+linear, 2 steps | -0.200" in write_report(tmp_path)


def test_the_report_shows_what_the_last_layer_tells(tmp_path):
    planted(tmp_path, lambda memory, depth, seed: 0.5)
    text = write_report(tmp_path)
    assert "| memory | depth | commit, 4 before | commit, 12 before | last pass, 4 before | last pass, 12 before | seeds |" in text
    assert "| window+linear | 1 step | 0.265 [" in text and "guessing gives 0.125" in text
    assert "| 0.565 [" in text, "the last pass's"


def test_a_report_without_pieces_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match="mutoscope study"):
        read_pieces(tmp_path)


def nearest_return(away: int) -> int:
    """After how many frames out of view the first landmark tile comes back, in the study's world: from the true positions, tile by tile."""
    data = ring_with(Window(WINDOW)).data
    env = make_world(data.world, height=data.height, width=data.width, frame_skip=data.frame_skip)
    clips = play_truth(env, RecallTask(12, away), 1, 0)
    columns, starts = data.width // TILE_PIXELS, clips.position[0, :, 1]
    seen = [set(range(start, start + columns)) for start in starts]
    gaps = []
    for tile in seen[-1]:
        back = next(frame for frame in range(len(seen) - 1, 0, -1) if tile not in seen[frame - 1])
        gaps.append(back - max(frame for frame in range(back) if tile in seen[frame]))
    return min(gaps)


def test_beyond_is_where_the_window_shows_no_landmark():
    assert nearest_return(BEYOND) > WINDOW
    assert nearest_return(BEYOND - 2) <= WINDOW, "not one sooner than it must be"


def test_comparisons_leave_out_what_the_window_still_shows(tmp_path):
    planted(tmp_path, lambda memory, depth, seed: 0.5)
    for file in tmp_path.glob("*-seed*.json"):
        figures = read_json(file)
        figures["rows"] += [row | {"away": 12, "identity": 1.0} for row in figures["rows"] if row["away"] == 24]
        write_json(file, figures | {"copy_sink": figures["copy_sink"] | {"12": 0.1}})
    pieces = read_pieces(tmp_path)
    assert pieces.distances == (12, 24, 96) and pieces.beyond == (24,)
    assert set(mean_recall(pieces, "sink+window", "1").values()) == {0.5}


def test_what_one_seed_leaves_open_is_null_in_the_summary(tmp_path):
    planted(tmp_path, lambda memory, depth, seed: 0.5)
    for seed in (1, 2):
        (tmp_path / f"window+linear-seed{seed}.json").unlink()
    write_report(tmp_path)
    gain = read_json(tmp_path / "summary.json")["comparisons"]["window+linear, 1 step"]["gain"]
    assert gain["seeds"] == 1 and gain["low"] is gain["high"] is None and gain["mean"] == 0
    assert "Infinity" not in (tmp_path / "summary.json").read_text()
