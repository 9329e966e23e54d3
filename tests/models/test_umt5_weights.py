"""Wan's text encoder from the original repository: the same embeddings as from diffusers' folder, and what does not fit is named."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutoscope.core.errors import CheckpointError
from mutoscope.models.text_encoders import load_encoder, load_umt5
from mutoscope.models.umt5_weights import UMT5Sizes, empty_umt5, read_umt5_sizes, umt5_names
from umt5_fakes import original_tensors, write_original_umt5, write_umt5

for part in ("transformers", "ftfy"):
    pytest.importorskip(part)
# What the file holds in all of Wan's repositories.
UMT5_XXL = UMT5Sizes(words=256_384, width=4096, inner=4096, hidden=10_240, layers=24, heads=64, buckets=32)
PROMPTS = ["a red disc", "", "a " * 600, "left & right"]


@pytest.fixture(scope="module", params=["published proportions", "wider attention"])
def folder(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In diffusers' layout."""
    return write_umt5(tmp_path_factory.mktemp("umt5"), request.param)


def same_embeddings(first: list[Tensor], second: list[Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_original_file_gives_the_embeddings_of_the_diffusers_folder(folder, tmp_path, dtype):
    original = write_original_umt5(tmp_path, original_tensors(folder))
    theirs, ours = load_umt5(folder, dtype=dtype), load_encoder(str(original), dtype=dtype)
    found, wanted = ours.encode(PROMPTS), theirs.encode(PROMPTS)
    assert same_embeddings(found, wanted) and {one.dtype for one in found} == {dtype} and ours.width == theirs.width
    assert [len(one) for one in found] == [4, 1, 512, 4]
    assert ours.model.shared.weight is ours.model.encoder.embed_tokens.weight, "words' embeddings are held once"
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in ours.model.parameters())


@pytest.mark.parametrize("swapped", [("ffn.gate.0", "ffn.fc1"), ("attn.q", "attn.k"), ("norm1", "norm2")])
def test_the_embeddings_broken_twin_with_two_weights_exchanged(folder, tmp_path, swapped):
    tensors = original_tensors(folder)
    one, other = (f"blocks.0.{name}.weight" for name in swapped)
    tensors[one], tensors[other] = tensors[other], tensors[one]
    assert not same_embeddings(load_umt5(write_original_umt5(tmp_path, tensors)).encode(PROMPTS), load_umt5(folder).encode(PROMPTS))


def test_the_type_of_the_file_is_not_that_of_the_embeddings(folder, tmp_path):
    halved = {name: tensor.bfloat16() for name, tensor in original_tensors(folder).items()}
    encoder = load_umt5(write_original_umt5(tmp_path / "half", halved))
    whole = load_umt5(write_original_umt5(tmp_path / "whole", {name: tensor.float() for name, tensor in halved.items()}))
    assert same_embeddings(encoder.encode(PROMPTS), whole.encode(PROMPTS)) and encoder.encode([""])[0].dtype == torch.float32


def test_the_identity_names_the_files(folder, tmp_path):
    original = write_original_umt5(tmp_path, original_tensors(folder))
    before = load_umt5(original).identity
    assert before.startswith("umt5-") and load_umt5(original).identity == before
    assert load_umt5(original, dtype=torch.bfloat16).identity == f"{before}-bfloat16"
    changed = original_tensors(folder)
    changed["norm.weight"][0] += 1
    assert load_umt5(write_original_umt5(tmp_path, changed)).identity != before


def spoil(tensors: dict[str, Tensor]) -> None:
    """Two lost, one of them in a block; one added; one turned."""
    del tensors["norm.weight"], tensors["blocks.1.attn.o.weight"]
    tensors["blocks.0.ffn.novelty"] = torch.ones(1)
    tensors["blocks.1.ffn.fc2.weight"] = tensors["blocks.1.ffn.fc2.weight"].T.contiguous()


def lose_a_block(tensors: dict[str, Tensor]) -> None:
    """The first block is gone, and with it what tells the sizes."""
    for name in [name for name in tensors if name.startswith("blocks.0.")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            spoil,
            r"bf16\.pth does not fit UMT5: missing blocks\.1\.attn\.o\.weight; missing norm\.weight; unexpected blocks\.0\.ffn\.novelty; "
            r"blocks\.1\.ffn\.fc2\.weight is \((40, 16|20, 12)\), needed \((16, 40|12, 20)\)$",
        ),
        (
            lose_a_block,
            r"is not Wan's text encoder: it has no matrix blocks\.0\.attn\.q\.weight, blocks\.0\.ffn\.fc1\.weight, blocks\.0\.pos",
        ),
        (lambda tensors: tensors.update({"blocks.0.pos_embedding.embedding.weight": torch.ones(32, 5)}), "do not divide between 5 heads"),
    ],
)
def test_keys_that_do_not_fit_are_all_named(folder, tmp_path, change, message):
    tensors = original_tensors(folder)
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        load_umt5(write_original_umt5(tmp_path, tensors))


def test_a_file_that_would_run_code_is_refused(folder, tmp_path):
    original = write_original_umt5(tmp_path, original_tensors(folder))
    torch.save({"token_embedding.weight": Path("x")}, original / "models_t5_umt5-xxl-enc-bf16.pth")
    with pytest.raises(CheckpointError, match="it is not read"):
        load_umt5(original)


def test_a_folder_without_its_tokenizer_says_so(folder, tmp_path):
    torch.save(original_tensors(folder), tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    with pytest.raises(CheckpointError, match=r"has no google/umt5-xxl; give a folder with text_encoder/ and tokenizer/ \(diffusers\), or"):
        load_umt5(tmp_path)


def test_the_published_sizes_have_the_bytes_that_the_documents_say():
    state = empty_umt5(UMT5_XXL).state_dict()
    names = umt5_names(UMT5_XXL.layers)
    assert set(names.values()) | {"encoder.embed_tokens.weight"} == state.keys() and len(set(names.values())) == len(names) == 242
    tensors = {own: state[theirs] for own, theirs in names.items()}
    assert read_umt5_sizes(tensors, Path("published")) == UMT5_XXL
    weights = sum(tensor.numel() for tensor in tensors.values())
    layer = 4 * 4096 * 4096 + 3 * 4096 * 10_240 + 2 * 4096 + 32 * 64
    assert weights == 256_384 * 4096 + 24 * layer + 4096 == 5_680_910_336
    assert (round(4 * weights / 1e9, 1), round(2 * weights / 1e9, 1)) == (22.7, 11.4)


def test_sizes_are_read_from_the_shapes(folder):
    sizes = read_umt5_sizes(original_tensors(folder), folder)
    assert sizes in (UMT5Sizes(11, 16, 16, 40, 2, 4, 32), UMT5Sizes(11, 12, 18, 20, 3, 3, 32))
