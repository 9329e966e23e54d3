"""The study of depth and memory: its grid, its pieces end to end at toy size, and that finished pieces are not run again."""

from collections import Counter

import pytest
import torch

from mutoscope.commands.recording import record_recipe
from mutoscope.core.errors import DataError
from mutoscope.core.files import read_json, write_json
from mutoscope.memory.policy import Full, Window, state_of
from mutoscope.models.checkpoint import read_manifest
from mutoscope.recipes.ring import ring_smoke, ring_with
from mutoscope.studies.depth_memory import MEMORIES, TAUGHT, Piece, StudyConfig, grid, is_done, piece_hash, piece_run, run_piece
from mutoscope.studies.depth_report import comparisons, mean_recall, read_pieces, write_report
from mutoscope.train.parallel import Workers

SMALL = StudyConfig(lead=4, away=(8,), episodes=2)


def test_the_grid_has_every_memory_and_its_seeds():
    counts = Counter(piece.memory for piece in grid())
    assert set(counts) == {*MEMORIES, *TAUGHT}
    assert (
        counts["full"] == counts["fast-weights"] == 5
        and counts["window"] == counts["window+linear"] == counts["window+linear, taught"] == 3
    )
    assert len(set(grid())) == len(grid()) == 35
    assert [piece.seed for piece in grid()] == sorted(piece.seed for piece in grid())


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
    for memory in ("sink+window", "window+fast-weights", "window+fast-weights, taught"):
        run_piece(ring_smoke, Piece(memory, 1), SMALL, data, folder / "runs", folder / "results", Workers(0, 1, torch.device("cpu")))
    return folder


def test_a_piece_scores_every_depth(finished):
    figures = read_json(finished / "results" / "window+fast-weights-seed1.json")
    assert [row["depth"] for row in figures["rows"]] == ["teacher", "consistency", "4", "2", "1"]
    row = figures["rows"][-1]
    assert row["away"] == 8 and 0 <= row["identity"] <= 1 and row["bytes"] > 0 and row["within_clip"]
    assert set(figures["seconds_per_frame"]) == {"teacher", "consistency", "4", "2", "1"}
    assert 0.05 < figures["chance"] < 0.5 and figures["policy"]["is"] == "Stateful"


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
    assert read_manifest(own / "matching-2" / "checkpoint").memory_modules == ("fast-swiglu: writing taught",)
    assert (finished / "results" / "window+fast-weights-taught-seed1.json").is_file()


def test_a_finished_piece_is_known_by_its_hash(finished):
    piece, results = Piece("sink+window", 1), finished / "results"
    assert is_done(results, ring_smoke, piece, SMALL)
    assert not is_done(results, ring_smoke, Piece("sink+window", 2), SMALL)
    assert not is_done(results, ring_smoke, piece, StudyConfig(lead=4, away=(9,), episodes=2))
    file = results / f"{piece.name}.json"
    write_json(file, read_json(file) | {"recipe_hash": "another"})
    assert not is_done(results, ring_smoke, piece, SMALL)


def planted(folder, recall):
    """Pieces of three seeds whose recall is what `recall(memory, depth, seed)` says."""
    for memory in ("sink+window", "window+linear"):
        for seed in range(3):
            rows = [
                {"depth": depth, "away": away, "identity": recall(memory, depth, seed), "in_view": 1.0, "moved": 1.0, "psnr_db": 20.0,
                 "bytes": 1024, "within_clip": away < 64}
                for depth in ("teacher", "consistency", "4", "2", "1") for away in (24, 96)
            ]  # fmt: skip
            seconds = {depth: {"denoise": 0.01, "commit": 0.002} for depth in ("teacher", "consistency", "4", "2", "1")}
            head = {"memory": memory, "seed": seed, "chance": 0.125, "copy_sink": {"24": 0.1, "96": 0.1}}
            write_json(folder / f"{memory}-seed{seed}.json", head | {"rows": rows, "seconds_per_frame": seconds})


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


def test_a_report_without_pieces_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match="mutoscope study"):
        read_pieces(tmp_path)
