"""Checkpoints in a run folder that were imported, not trained: they are checked against the recipe, and named by their weights."""

from pathlib import Path

from mutoscope.core.config import config_hash
from mutoscope.core.errors import CheckpointError
from mutoscope.models.camera_config import CAMERA_ACTIONS
from mutoscope.models.checkpoint import CheckpointManifest, read_manifest
from mutoscope.train.build import recall_of, transformer_config
from mutoscope.train.config import CodecStage, PublishedStage, RunConfig, StageConfig, parents
from mutoscope.train.manifests import codec_source


def imported_manifest(path: Path) -> CheckpointManifest | None:
    """The manifest of a checkpoint folder that `mutoscope import` wrote; None where there is none, or one that was trained here."""
    if not (path / "manifest.json").is_file():
        return None
    manifest = read_manifest(path)
    return manifest if manifest.imported else None


def imported_identity(stage: StageConfig, manifest: CheckpointManifest) -> str:
    """What an imported checkpoint's children depend on: its weights and its codec's, and neither data nor how others are trained."""
    return config_hash((stage, manifest.recipe_hash, manifest.codec_hash))


def import_command(folder: Path, stage: StageConfig) -> str:
    """What writes a stage's checkpoint into a run folder, whose run.json says the size; words in capitals are to be filled in."""
    options = f"--stage {stage.name} --codec VAE --output {folder / stage.name / 'checkpoint'}"
    return f"mutoscope import {folder / 'run.json'} WEIGHTS {options}"


def check_imports(run: RunConfig, folder: Path, action_dim: int) -> None:
    """Every published stage has its weights, and every imported checkpoint is of the recipe's size, chunks and codec."""
    for stage in run.stages:
        manifest = None if isinstance(stage, CodecStage) else imported_manifest(folder / stage.name / "checkpoint")
        if manifest is not None:
            check_import(run, folder, stage, manifest, action_dim)
        elif isinstance(stage, PublishedStage):
            raise CheckpointError(
                f"stage '{stage.name}' has published weights, and none are there; bring them in with: {import_command(folder, stage)}"
            )


def check_import(run: RunConfig, folder: Path, stage: StageConfig, manifest: CheckpointManifest, action_dim: int) -> None:
    """One imported checkpoint against the recipe; a CheckpointError names what differs and the command that puts it right."""
    path, problems = folder / stage.name / "checkpoint", []
    known = 0 if run.model.camera is None else CAMERA_ACTIONS.dim  # actions that an imported model knows
    problems += differences("codec", manifest.codec, run.codec)
    problems += differences("model", manifest.model, transformer_config(run.model, manifest.codec, known, recall_of(run, stage)))
    if not isinstance(stage, PublishedStage):
        problems += [
            f"{name} is {getattr(manifest, name)}, needed {getattr(run, name)}"
            for name in ("chunk_frames", "shift")
            if getattr(manifest, name) != getattr(run, name)
        ]
    if problems:
        raise CheckpointError(
            f"{path} was imported for another recipe: {'; '.join(problems)}. "
            f"Delete it and import again with: {import_command(folder, stage)}"
        )
    used = stage == codec_source(run) or any(stage.name in parents(other) for other in run.stages)
    if used and not (path / "codec.safetensors").is_file():
        raise CheckpointError(f"{path} was imported without its codec; delete it and import again with: {import_command(folder, stage)}")
    if action_dim > known and any(stage.name in parents(other) for other in run.stages):
        raise CheckpointError(
            f"the data has actions, and the model in {path} knows none; train on clips without actions (mutoscope prepare makes them), "
            "or let a stage of your own be the teacher"
        )


def differences(what: str, found: object, wanted: object) -> list[str]:
    """The fields in which two configurations of one kind differ, in words."""
    if type(found) is not type(wanted):
        return [f"its {what} is a {type(found).__name__}, needed a {type(wanted).__name__}"]
    names = [name for name, value in vars(wanted).items() if vars(found)[name] != value]
    return [f"{what} {name} is {vars(found)[name]}, needed {vars(wanted)[name]}" for name in names]
