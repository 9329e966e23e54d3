"""A checkpoint brought to play in other numbers: what the device holds while it is loaded, and that play is what the planner counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fakes import tiny_checkpoint
from mutoscope import cli
from mutoscope.commands.checkpoints import session_config
from mutoscope.commands.loading import Loading
from mutoscope.media.video import read_video
from mutoscope.models.checkpoint import load_model, save_checkpoint
from mutoscope.models.quantised import held_bytes, quantise_weights
from mutoscope.rollout.session import Session
from mutoscope.rollout.speed import Speed


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A small student on disk, in float32."""
    made = tiny_checkpoint()
    save_checkpoint(tmp_path / "student", made.manifest, model=None, average=made.model, codec=made.codec, starts=made.starts)
    return tmp_path / "student"


def test_loading_says_in_which_numbers_a_checkpoint_plays(student):
    """bf16 weights, a cache of int8 and static steps: another picture than in float32, but nearly the same."""
    pictures = []
    for loading in (Loading(), Loading(precision="bf16", speed=Speed(runner="static", cache="int8"))):
        checkpoint = loading.load(student)
        config = session_config(checkpoint.manifest, steps=2, policy=None, seed=0)
        session, action = Session(checkpoint, loading.config(config)), np.ones(checkpoint.manifest.world.actions.dim, np.float32)
        session.reset(0, 0)
        pictures.append(np.stack([session.step(action) for _ in range(6)]).astype(int))
    assert session.store.keys.dtype == torch.int8 and session.store.dtype == torch.bfloat16
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < pictures[0].std() / 4


class Arrivals(TorchDispatchMode):
    """While active: the floats that come to be on a device (here the meta device stands for it) from ones that lay elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        if any(not value.is_meta for value in given) and isinstance(made, torch.Tensor) and made.is_floating_point():
            self.types += [made.dtype] * made.is_meta
            self.copies += func in (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)
        return made


def arrivals(load: Callable[[], Any]) -> Arrivals:
    """What came while something was loaded."""
    with Arrivals() as seen:
        load()
    return seen


def test_the_device_holds_no_wider_numbers_than_it_keeps(student):
    """A model of 14 billion weights takes 53 GiB in float32: more than the card, on which it plays in bfloat16, has."""
    model = load_model(student)[1]
    seen = arrivals(lambda: Loading("meta", "bf16").load(student)).types
    wide = [dtype for dtype in seen if dtype != torch.bfloat16]
    assert seen.count(torch.bfloat16) >= len(model.state_dict()) and len(wide) == 2, "the statistics of the codec's latents alone are wide"
    # Broken twin: loaded, and narrowed there.
    assert torch.float32 in arrivals(lambda: load_model(student, "meta")[1].to(torch.bfloat16)).types


def test_narrowing_on_the_way_gives_the_same_bits_as_narrowing_afterwards(student):
    wanted = load_model(student)[1].to(torch.bfloat16).state_dict()
    made = load_model(student, dtype=torch.bfloat16)[1].state_dict()
    assert made.keys() == wanted.keys() and all(made[name].dtype == torch.bfloat16 for name in made)
    assert all(torch.equal(made[name], wanted[name]) for name in made)


def test_weights_that_are_narrow_in_their_file_can_stay_there(student):
    file = student / "average.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)
    mapped = arrivals(lambda: load_model(student, mapped=True, dtype=torch.bfloat16))
    assert mapped.copies == 0 < arrivals(lambda: load_model(student, dtype=torch.bfloat16)).copies


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_of_eight_bits_are_made_layer_by_layer_as_before(student, precision):
    """From the host, where the model lies in its type; before, all of it lay on the device."""
    made = Loading(precision=precision, weights="int8").load(student).model
    wanted = quantise_weights(Loading(precision=precision).load(student).model, "int8")
    pairs = list(zip(made.parameters(), wanted.parameters(), strict=True))
    assert sum(map(held_bytes, made.parameters())) == sum(map(held_bytes, wanted.parameters()))
    assert all(torch.equal(*(tensor.dequantize() if hasattr(tensor, "dequantize") else tensor for tensor in pair)) for pair in pairs)


@pytest.mark.parametrize(
    ("precision", "codec", "wanted"),
    [("fp32", "model", "fp32"), ("bf16", "model", "bf16"), ("bf16", "fp32", "fp32"), ("fp32", "bf16", "bf16")],
)
def test_the_codec_has_the_models_numbers_unless_it_is_said(student, precision, codec, wanted):
    loaded = Loading(precision=precision, codec_precision=codec).load(student)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[wanted]
    assert (
        {parameter.dtype for parameter in loaded.codec.parameters()}
        == {dtype}
        == {Loading("cpu", precision, codec_precision=codec).codec_dtype}
    )
    assert loaded.codec.latent_mean.dtype == loaded.codec.latent_std.dtype == torch.float32, "statistics stay wide"
    latents = torch.zeros(1, 1, *(loaded.codec.latent.channels, loaded.codec.latent.height, loaded.codec.latent.width))
    assert loaded.codec.decode(latents).dtype == torch.float32


def test_generated_frames_of_a_small_world_change_with_the_options(student, tmp_path):
    def video(*more: str) -> np.ndarray:
        asked = ["generate", str(student), "--actions", "right*9", "--scale", "4", "--output", str(tmp_path / "made.mp4"), *more]
        assert cli.main(asked) == 0
        return read_video(tmp_path / "made.mp4")[0].astype(int)

    plain, narrow = video(), video("--precision", "bf16", "--cache", "int8", "--runner", "static", "--commits", "own")
    assert plain.shape == narrow.shape and 0 < np.abs(plain - narrow).mean() < plain.std() / 4
