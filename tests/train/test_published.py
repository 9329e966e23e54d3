"""Published weights in a run folder: without them nothing is trained, what does not fit is named with the command that puts it right."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from training_fakes import RUN as TRAINED
from training_fakes import UPDATE, stage_config

from mutoscope import cli
from mutoscope.commands.import_ import Options, imported_manifest
from mutoscope.core.config import to_plain
from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.files import write_json
from mutoscope.memory.kinds import LinearState
from mutoscope.memory.policy import Stateful, Window
from mutoscope.train.config import RunConfig
from mutoscope.train.manifests import codec_source, temporal_stride
from mutoscope.train.published import check_imports, imported_identity
from mutoscope.train.published import imported_manifest as manifest_in
from wan_fakes import CODEC, codec_tensors, wan_tensors, write_codec, write_diffusers
from wan_runs import TINY


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    """A run folder with an imported teacher; tests work on copies."""
    root = tmp_path_factory.mktemp("published")
    write_diffusers(root / "wan" / "transformer", wan_tensors())
    write_codec(root / "wan" / "vae", codec_tensors())
    write_json(root / "run" / "run.json", to_plain(TINY))
    assert bring_in(root, "bidirectional") == 0
    return root


@pytest.fixture
def root(imported, tmp_path) -> Path:
    return Path(shutil.copytree(imported, tmp_path / "copy"))


def bring_in(root: Path, stage: str, *more: str) -> int:
    where = ["--stage", stage, "--output", str(root / "run" / stage / "checkpoint")]
    return cli.main(["import", str(root / "run" / "run.json"), str(root / "wan"), *(more or ("--codec", str(root / "wan"))), *where])


def identity(root: Path) -> str:
    stage = TINY.stage("bidirectional")
    manifest = manifest_in(root / "run" / "bidirectional" / "checkpoint")
    assert manifest is not None
    return imported_identity(stage, manifest)


def test_what_is_there_and_fits_is_accepted(root):
    check_imports(TINY, root / "run", 0)


def test_missing_weights_come_with_the_command_that_brings_them_in(root):
    shutil.rmtree(root / "run" / "bidirectional")
    with pytest.raises(CheckpointError, match="'bidirectional' has published weights, and none are there; bring them in with: ") as error:
        check_imports(TINY, root / "run", 0)
    command = shlex.split(str(error.value).partition("bring them in with: ")[2])
    filled = [{"WEIGHTS": str(root / "wan"), "VAE": str(root / "wan")}.get(word, word) for word in command]
    assert cli.main(filled[1:]) == 0
    check_imports(TINY, root / "run", 0)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (replace(TINY, model=replace(TINY.model, num_layers=2)), "model num_layers is 3, needed 2"),
        (replace(TINY, codec=replace(CODEC, base_dim=8)), "codec base_dim is 4, needed 8"),
        (replace(TINY, codec=replace(CODEC, height=64), data=replace(TINY.data, height=64)), "codec height is 32, needed 64"),
    ],
)
def test_another_size_or_codec_is_named(root, run, message):
    with pytest.raises(CheckpointError, match=f"was imported for another recipe: .*{message}.*Delete it and import again with: mutoscope"):
        check_imports(run, root / "run", 0)


def test_a_teacher_without_its_codec_is_refused(root):
    (root / "run" / "bidirectional" / "checkpoint" / "codec.safetensors").unlink()
    with pytest.raises(CheckpointError, match="was imported without its codec; delete it and import again with: mutoscope .*--codec"):
        check_imports(TINY, root / "run", 0)


def test_data_with_actions_is_refused(root):
    with pytest.raises(CheckpointError, match="the data has actions, and the model in .* knows none"):
        check_imports(TINY, root / "run", 3)


def test_an_imported_student_counts_as_its_stage_if_it_has_the_recipes_chunks(root):
    assert bring_in(root, "autoregressive") == 0
    check_imports(TINY, root / "run", 0)
    with pytest.raises(CheckpointError, match="autoregressive.checkpoint was imported for another recipe: chunk_frames is 1, needed 3"):
        check_imports(replace(TINY, chunk_frames=3), root / "run", 0)
    with pytest.raises(CheckpointError, match="model recall is None, needed LinearState"):
        check_imports(replace(TINY, memory=Stateful(Window(3), LinearState())), root / "run", 0)


def test_the_identity_is_that_of_the_weights_and_of_the_codec(root):
    before = identity(root)
    assert identity(root) == before
    found = {before}
    for name, weights, codec in (("other weights", 1, 0), ("other codec", 0, 1)):
        other = root / name
        write_diffusers(other / "wan" / "transformer", wan_tensors(weights))
        write_codec(other / "wan" / "vae", codec_tensors(codec))
        write_json(other / "run" / "run.json", to_plain(TINY))
        assert bring_in(other, "bidirectional") == 0
        found.add(identity(other))
    assert len(found) == 3


def test_import_and_training_say_the_same_of_a_stage():
    """One function makes both manifests; an import leaves open only whose weights they are."""
    manifest = imported_manifest(TINY, TINY.stage("consistency"), 16.0)
    assert (manifest.teacher_steps, manifest.student_steps, manifest.distilled_guidance) == (48, 4, 3.0)
    assert (manifest.conditions, manifest.text, manifest.recipe_hash) == (("text",), TINY.text, "")
    assert Options("wan-1.3b", Path("wan")).content_rate == manifest.world.content_rate == 16.0


def test_the_codec_comes_with_the_first_published_weights():
    own = replace(TRAINED, stages=(stage_config("codec", UPDATE),))
    assert (codec_source(TINY), temporal_stride(TINY)) == (TINY.stages[0], 4)
    assert (codec_source(own), temporal_stride(own)) == (own.stages[0], 1)
    bare: RunConfig = replace(TINY, stages=())
    with pytest.raises(ConfigError, match="has Wan's codec and no stage of published weights that it could come with"):
        codec_source(bare)
