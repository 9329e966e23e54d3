"""Embeddings on disk: exact, whole or absent, of one encoder, and named where they are missing or broken."""

import weakref
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import ConfigError, DataError
from mutoscope.models.text_cache import INDEX, create_cache, open_cache, padded, prompt_key
from mutoscope.models.text_config import TextConfig
from mutoscope.models.text_encoders import embed_prompts
from prompt_fakes import TOKENS, WIDTH, FakeEncoder, fake_cache

PROMPTS = ("a red disc", "a blue cross", "")


def test_what_was_kept_comes_back_with_zeros_after_it(tmp_path: Path):
    fake_cache(tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    assert (cache.encoder, cache.width, cache.tokens, cache.prompts) == ("fake-1", WIDTH, TOKENS, PROMPTS)
    states, read = FakeEncoder().encode(PROMPTS), cache.embeddings(PROMPTS)
    assert read.shape == (3, TOKENS, WIDTH)
    for row, state in zip(read, states, strict=True):
        assert torch.equal(row[: len(state)], state) and not row[len(state) :].any()
    assert torch.equal(cache.embeddings(["", PROMPTS[0]]), read[[2, 0]])


def test_a_prompt_that_is_not_there_is_an_error_that_lists_what_is(tmp_path: Path):
    cache = fake_cache(tmp_path / "cache")
    with pytest.raises(DataError, match=r"no embedding of 'a red dish'; it has 'a red disc', .*'a blue cross'.*mutoscope embed"):
        cache.embeddings(["a red dish"])
    assert cache.missing(["a red dish", "", "a red dish"]) == ["a red dish"] and "" in cache and "a red dish" not in cache


def test_the_key_depends_on_encoder_and_prompt():
    keys = {prompt_key(encoder, prompt) for encoder in ("one", "two") for prompt in ("", "a", "b")}
    assert len(keys) == 6 and prompt_key("one", "a") == prompt_key("one", "a")


@pytest.mark.parametrize("content", [b"", b"no tensors at all", "cut"])
def test_a_broken_file_is_named(tmp_path: Path, content):
    cache = fake_cache(tmp_path / "cache")
    file = tmp_path / "cache" / cache.files["a red disc"]
    file.write_bytes(file.read_bytes()[:-8] if content == "cut" else content)
    with pytest.raises(DataError, match=file.name):
        open_cache(tmp_path / "cache").embeddings(["a red disc"])
    assert open_cache(tmp_path / "cache").embeddings(["a blue cross"]).shape[0] == 1, "the others are still there"
    file.unlink()
    with pytest.raises(DataError, match=f"{file.name} does not exist"):
        open_cache(tmp_path / "cache").embeddings(["a red disc"])


def test_a_file_of_another_width_or_with_nan_is_named(tmp_path: Path):
    cache = fake_cache(tmp_path / "cache")
    other = create_cache(tmp_path / "other", "fake-1", WIDTH + 1, TOKENS)
    other.add({"a red disc": torch.zeros(2, WIDTH + 1)})
    (tmp_path / "cache" / cache.files["a red disc"]).write_bytes((tmp_path / "other" / other.files["a red disc"]).read_bytes())
    with pytest.raises(DataError, match=cache.files["a red disc"]):
        open_cache(tmp_path / "cache").embeddings(["a red disc"])
    for wrong in (torch.zeros(2, WIDTH + 1), torch.full((2, WIDTH), float("nan")), torch.zeros(WIDTH)):
        with pytest.raises(DataError, match="finite"):
            cache.add({"new": wrong})
    with pytest.raises(DataError, match="7 tokens.*at most 6"):
        cache.add({"long": torch.zeros(TOKENS + 1, WIDTH)})
    assert open_cache(tmp_path / "cache").prompts == PROMPTS, "what was refused left nothing behind"


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 1, "encoder": "x"}'])
def test_a_broken_index_is_named(tmp_path: Path, text: str):
    fake_cache(tmp_path / "cache")
    (tmp_path / "cache" / INDEX).write_text(text)
    with pytest.raises(DataError, match=INDEX):
        open_cache(tmp_path / "cache")
    with pytest.raises(DataError, match="mutoscope embed"):
        open_cache(tmp_path)


def test_a_write_that_fails_leaves_the_cache_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = fake_cache(tmp_path / "cache")
    before = (tmp_path / "cache" / INDEX).read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("mutoscope.models.text_cache.write_bytes", full)
    with pytest.raises(OSError):
        cache.add({"new": torch.zeros(1, WIDTH)})
    assert (tmp_path / "cache" / INDEX).read_bytes() == before and open_cache(tmp_path / "cache").prompts == PROMPTS


def test_the_encoder_is_loaded_only_for_what_is_missing_and_let_go(tmp_path: Path):
    loads: list[weakref.ref[FakeEncoder]] = []
    asked: list[list[str]] = []

    def load() -> FakeEncoder:
        encoder = FakeEncoder()
        loads.append(weakref.ref(encoder))
        asked.append(encoder.asked)
        return encoder

    def gone() -> list[bool]:
        return [encoder() is None for encoder in loads]

    embed_prompts(tmp_path / "cache", PROMPTS, load, TOKENS)
    assert asked == [list(PROMPTS)] and gone() == [True]
    embed_prompts(tmp_path / "cache", PROMPTS, load, TOKENS)
    assert len(loads) == 1, "all is there: nothing is loaded"
    cache = embed_prompts(tmp_path / "cache", (*PROMPTS, "a green ring", "a green ring"), load, TOKENS)
    assert asked[1:] == [["a green ring"]] and gone() == [True, True] and cache.prompts == (*PROMPTS, "a green ring")


def test_another_encoder_or_length_is_refused(tmp_path: Path):
    fake_cache(tmp_path / "cache")
    for identity, width, tokens in (("fake-2", WIDTH, TOKENS), ("fake-1", WIDTH + 1, TOKENS), ("fake-1", WIDTH, TOKENS + 1)):
        with pytest.raises(DataError, match="was made by fake-1"):
            create_cache(tmp_path / "cache", identity, width, tokens)
    with pytest.raises(DataError, match="was made by fake-1"):
        embed_prompts(tmp_path / "cache", ["new"], lambda: FakeEncoder("fake-2"), TOKENS)


def test_a_copy_holds_the_same_embeddings(tmp_path: Path):
    cache = fake_cache(tmp_path / "cache")
    copied = cache.copy(tmp_path / "copy", ["", "a red disc"])
    assert copied.prompts == ("", "a red disc") and torch.equal(copied.embeddings(copied.prompts), cache.embeddings(copied.prompts))
    assert cache.copy(tmp_path / "copy", PROMPTS).prompts == ("", "a red disc", "a blue cross")
    with pytest.raises(DataError, match="no embedding of 'new'"):
        cache.copy(tmp_path / "copy", ["new"])


def test_padding_never_cuts():
    with pytest.raises(ConfigError, match="3 tokens, and the model reads 2"):
        padded(torch.zeros(3, 4), 2)
    with pytest.raises(ConfigError, match="2 tokens"):
        TextConfig("minilm", 1)
