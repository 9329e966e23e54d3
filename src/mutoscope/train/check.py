"""Whether data and a run belong together, before anything is trained."""

from typing import TYPE_CHECKING

from mutoscope.core.errors import CheckpointError, ConfigError, DataError
from mutoscope.core.shapes import pixel_frames
from mutoscope.models.camera_config import check_camera_world
from mutoscope.models.checkpoint import read_manifest
from mutoscope.train.config import RunConfig
from mutoscope.train.manifests import temporal_stride
from mutoscope.train.pictures import sample_frames
from mutoscope.train.sources import is_prepared

if TYPE_CHECKING:
    from mutoscope.train.chain import Chain

START_FRAMES = 4


def check_data(chain: "Chain") -> None:
    """Both data sets are of one world, that of the checkpoints already here, with episodes as long as the clips of every stage."""
    world = chain.train_data.world
    if world != chain.held_out.world:
        raise ConfigError(f"{chain.train_data.path} and {chain.held_out.path} were recorded from different worlds")
    check_kinds(chain)
    check_camera_world(chain.run.model.camera, world)
    if (world.height, world.width) != (chain.run.data.height, chain.run.data.width) and chain.run.codec != "trained":
        raise DataError(
            f"{chain.train_data.path} has pictures of {world.height}x{world.width}, and the recipe's codec is for "
            f"{chain.run.data.height}x{chain.run.data.width}; prepare clips of that size, or change data.height, "
            "data.width, codec.height and codec.width"
        )
    check_lengths(chain)
    for stage in chain.run.stages:
        path = chain.checkpoint_path(stage.name)
        if not (path / "manifest.json").is_file():
            continue
        before = read_manifest(path)
        if before.world != world and not before.imported:
            raise CheckpointError(
                f"{path} was trained on the world {before.world}, and {chain.train_data.path} is of {world}; "
                "give another run folder, or the data that it was trained on"
            )


def check_kinds(chain: "Chain") -> None:
    """Latents to learn from are for a codec that is there already, and what is held out can be looked at."""
    if is_prepared(chain.train_data) and chain.run.codec == "trained":
        raise DataError(f"{chain.train_data.path} holds latents of another codec, and this recipe trains its own; give recorded frames")
    if is_prepared(chain.held_out):
        raise DataError(f"{chain.held_out.path} holds latents, and samples are compared with pictures; give held-out clips of pictures")


def check_lengths(chain: "Chain") -> None:
    """Both data sets have clips of every length that is read; DataError says how long they must be."""
    run, stride = chain.run, temporal_stride(chain.run)
    prepared = is_prepared(chain.train_data)
    longest = run.longest_clip
    wanted = longest if prepared else pixel_frames(longest, stride)
    shown = pixel_frames(max(sample_frames(run), START_FRAMES), stride)
    for dataset, frames in ((chain.train_data, wanted), (chain.held_out, shown)):
        found = max(episode.num_frames for episode in dataset.episodes)
        if found < frames:
            unit, verb = ("latent frames", "prepare") if prepared and dataset is chain.train_data else ("frames", "record")
            other = _shorter_rollouts(run, longest) if frames == wanted else ""
            raise DataError(
                f"this run needs clips of {frames} {unit}, and the longest episode of {dataset.path} has {found}; {verb} longer ones{other}"
            )


def _shorter_rollouts(run: RunConfig, frames: int) -> str:
    """The other way out where it is matching's long rollouts that need so many frames."""
    names = ", ".join(stage.name for stage in run.stages if run.frames_read(stage) == frames > run.clip_frames)
    return f", or lower frames_beyond_clip of {names}" if names else ""
