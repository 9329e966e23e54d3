"""From names on the command line to recorded data sets: what `record` and `train` have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mutoscope.data.format import DatasetManifest
from mutoscope.data.recorder import RecordOptions, record
from mutoscope.data.worlds import WORLDS, make_world, world_prompts
from mutoscope.models.text_config import TextConfig
from mutoscope.train.config import DataConfig

if TYPE_CHECKING:
    from mutoscope.commands.record import Options

GYMNASIUM = "gym:"
WORLD_FRAME_SKIP = 2


def record_world(path: Path, options: RecordOptions) -> DatasetManifest:
    """Record the world that the options name into `path`, or go on with it."""
    size = {"height": options.height, "width": options.width, "frame_skip": options.frame_skip}
    return record(lambda: make_world(options.world, **size), path, options)


def recorder_options(options: "Options") -> RecordOptions:
    """What the recorder is told by the arguments of `record`."""
    return RecordOptions(
        world=world_name(options.world),
        episodes=options.episodes,
        frames_per_episode=options.frames,
        height=options.height,
        width=options.width,
        frame_skip=WORLD_FRAME_SKIP if options.frame_skip is None else options.frame_skip,
        seed=options.seed,
        policy=options.policy,
    )


def import_clips(options: "Options") -> DatasetManifest:
    """A folder of video files and action tables as a data set."""
    from mutoscope.data.worlds.videos import ImportOptions, import_videos

    skip = 1 if options.frame_skip is None else options.frame_skip
    return import_videos(Path(options.world), options.output, ImportOptions(options.height, options.width, options.frames, skip))


def embed_captions(text: TextConfig, world: str, datasets: Sequence[Path]) -> None:
    """What training with prompts needs beside its data sets: their captions, all that the world understands, and the negative prompt.

    Wan's encoder has a folder that no recipe knows: there the embeddings are made beforehand, with `mutoscope embed`.
    """
    from mutoscope.data.captions import PROMPTS, read_prompts
    from mutoscope.models.text_encoders import embed_prompts, load_encoder

    for path in datasets:
        prompts = (text.negative, *world_prompts(world), *read_prompts(path))
        if text.encoder == "minilm":
            embed_prompts(path / PROMPTS, prompts, lambda: load_encoder(text.encoder), text.tokens)


def world_name(name: str) -> str:
    """A bundled world's name as it is; anything that looks like a Gymnasium id ("CartPole-v1", "ALE/Pong-v5") with its prefix."""
    looks_like_an_id = "/" in name or "-v" in name
    return f"{GYMNASIUM}{name}" if name not in WORLDS and looks_like_an_id and not name.startswith(GYMNASIUM) else name


def record_recipe(data: DataConfig, folder: Path) -> tuple[Path, Path]:
    """A recipe's training and held-out episodes, from different seeds, in `folder/train` and `folder/held-out`."""
    train, held_out = folder / "train", folder / "held-out"
    for path, episodes, seed in ((train, data.episodes, data.seed), (held_out, data.held_out_episodes, data.seed + 1)):
        record_world(
            path,
            RecordOptions(
                world=data.world,
                episodes=episodes,
                frames_per_episode=data.frames_per_episode,
                height=data.height,
                width=data.width,
                frame_skip=data.frame_skip,
                seed=seed,
                policy=data.policy,
            ),
        )
    return train, held_out
