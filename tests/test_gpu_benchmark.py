"""benchmarks/gpu.py as it will run on a borrowed machine: with torch, NumPy and safetensors alone, in time, whatever fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ABSENT = (
    "tyro", "av", "diffusers", "torchao", "transformers", "gymnasium", "starlette", "uvicorn", "websockets", "PIL", "cv2", "vizdoom",
    "matplotlib", "tensorboard", "accelerate", "peft", "ftfy", "httpx", "playwright", "hypothesis", "flash_attn", "flash_attn_interface",
)  # fmt: skip
SMALL = [
    "--device", "cpu", "--size", "32x48", "--chunks", "10",
    "--set", "model.dim=24", "model.num_layers=2", "model.ffn_dim=48", "model.num_heads=2", "model.text_dim=8", "memory=window=3",
]  # fmt: skip


@pytest.mark.long
def test_all_of_it_runs_with_torch_numpy_and_safetensors_alone(tmp_path):
    """Packages that a GPU machine may lack cannot be imported; ways that want them say so, and the others are measured."""
    ways = ["--ways", "plain", "weights int8", "graph", "plain again"]
    blocked = f"import runpy, sys; sys.modules.update(dict.fromkeys({ABSENT!r})); sys.argv = sys.argv[1:]; "
    blocked += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", blocked, str(ROOT / "benchmarks" / "gpu.py"), "--output", str(tmp_path), *ways, *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = found["summary"]
    assert list(rows) == ways[1:]
    assert "torchao" in rows["weights int8"]["failed"] and "captures CUDA graphs" in rows["graph"]["failed"]
    for name in ("plain", "plain again"):
        row = rows[name]
        assert row["with_codec"] > 0 and row["without_codec"] > 0 and "failed" not in row and row["memory_constant"]
        assert row["decoder"].startswith("taew2_1") and row["with_codec_answers_the_target"] is False
    assert "do not answer the target" in found["decoder"] and done.stdout.count(found["decoder"]) == 2
    assert ["first_frame_cold_ms" in row for row in rows.values()] == [True, False, False, False], "a process is cold once"
    assert rows["plain"]["filling_full_at_chunk"] == 2


@pytest.fixture
def gpu(monkeypatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    yield gpu
    sys.modules.pop("gpu", None)


def seen(gpu, monkeypatch, measure, seconds: float = 100.0) -> dict:
    """What is recorded of a way whose measurement is `measure`."""
    monkeypatch.setattr(gpu.stream_timing, "measure_stream", measure)
    return gpu.measured(None, 10, gpu.Asked(), seconds)


@pytest.mark.parametrize("error", [OSError("no compiler"), subprocess.CalledProcessError(1, "gcc"), RecursionError("deep")], ids=repr)
def test_whatever_fails_is_recorded_and_ends_nothing(gpu, monkeypatch, error):
    def fails(settings, chunks, asked):
        asked.heard({"passes": {"denoising_ms": {"p50": 1.0}}})
        raise error

    found = seen(gpu, monkeypatch, fails)
    assert type(error).__name__ in found["failed"] and "fails" in found["traceback"] and found["passes"]
    assert gpu.summary({"plain": found})["plain"] == {"denoising_ms": 1.0, "failed": found["failed"].splitlines()[0]}


def test_a_way_that_takes_long_is_written_as_it_goes(gpu, monkeypatch):
    """And one that is short is not: writing takes time from what is timed."""
    written = []

    def takes(settings, chunks, asked):
        for chunk in range(5):
            asked.heard({"free": {"with_codec": {"chunks": chunk, "pixel_frames_per_second": 1.0, "chunk_ms": 1.0}}})

    monkeypatch.setattr(gpu.stream_timing, "measure_stream", takes)
    monkeypatch.setattr(gpu.stream_timing, "described", lambda figures: "")
    for seldom in (60.0, 0.0):
        monkeypatch.setattr(gpu, "SELDOM", seldom)
        gpu.measured(None, 10, gpu.Asked(heard=written.append), 100.0)
        assert len(written) == (0 if seldom else 5)
    row = gpu.summary({"plain": {**written[-1], "codec": "Wan 2.1's VAE, random weights"}})["plain"]
    assert row["unfinished"] == "at work" and row["with_codec_answers_the_target"]


def test_what_does_not_end_is_broken_off_and_what_it_found_is_kept(gpu, monkeypatch):
    """Whoever set an alarm before, as pytest-timeout does, still has it afterwards."""

    def hangs(settings, chunks, asked):
        asked.heard({"passes": {}})
        try:
            time.sleep(60)
        except Exception:
            pytest.fail("an `except Exception` must not swallow it")

    before = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 200.0)
    try:
        found = seen(gpu, monkeypatch, hangs, 0.05)
        assert "time was up" in found["failed"] and found["passes"] == {}
        assert signal.getsignal(signal.SIGALRM) is before and 100 < signal.getitimer(signal.ITIMER_REAL)[0] <= 200
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def test_the_time_ends_within_a_way_and_the_file_is_whole(gpu, tmp_path):
    gpu.main(["--output", str(tmp_path), "--ways", "plain", "fused", "--codec", "none", "--seconds", "0", *SMALL, "--chunks", "1000000"])
    found = json.loads((tmp_path / "gpu.json").read_text())
    free = found["ways"]["plain"]["free"]
    assert list(found["ways"]) == ["plain"] and free["with_codec"] is None
    assert free["without_codec"]["chunks"] < 1_000_000 and not free["without_codec"]["finished"]


def test_only_one_of_the_free_runs(gpu, tmp_path):
    common = ["--output", str(tmp_path), "--ways", "plain", *SMALL]
    gpu.main([*common, "--only", "with-codec", "--codec", "tiny"])
    figures = json.loads((tmp_path / "gpu.json").read_text())["ways"]["plain"]
    assert figures["free"]["without_codec"] is None and figures["free"]["with_codec"]["chunks"] == 10
    assert figures["share_of_roofline"] is None and len(figures["memory"]["looks"]) == 10
    gpu.main([*common, "--only", "with-codec", "--codec", "none"])
    assert "there is no codec" in json.loads((tmp_path / "gpu.json").read_text())["summary"]["plain"]["failed"]


def test_compiling_ways_come_last(gpu):
    names = list(gpu.WAYS)
    first = min(names.index(name) for name in names if "compile" in name or name == "flex")
    assert names[0] == "plain" and names[first - 1] == "plain again"
    assert all("compile" in name or name == "flex" for name in names[first:])


def test_wheels_that_were_brought_can_be_imported(gpu, tmp_path, monkeypatch):
    import zipfile

    with zipfile.ZipFile(tmp_path / "brought-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought_to_the_machine.py", "WORD = 'here'\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    gpu.use_packages(tmp_path)
    import brought_to_the_machine

    assert brought_to_the_machine.WORD == "here"
    with pytest.raises(gpu.ConfigError, match="no wheel"):
        gpu.use_packages(tmp_path / "nothing")


def test_the_tests_of_a_gpu_are_found_where_nothing_else_is_installed():
    """As `make test-gpu-bare` starts them: neither the repository's configuration of pytest nor a plugin, a conftest or another package."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({(*ABSENT, 'pytest_timeout', 'xdist')!r})); import pytest; "
    bare = ["--noconftest", "-c", "/dev/null", "--rootdir=.", "-p", "no:cacheprovider", "-q", "tests/gpu", "--collect-only"]
    environment = {**os.environ, "PYTHONPATH": "src:tests:tests/train", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", blocked + f"sys.exit(pytest.main({bare!r}))"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "test_the_frame_loop_never_waits" in done.stdout and "test_the_peak_of_an_update_is_predicted" in done.stdout
    (wanted,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "tests/gpu $(TEST_ARGS)" in line)
    assert " ".join(bare[:-3]) in wanted and f"PYTHONPATH={environment['PYTHONPATH']}" in wanted
