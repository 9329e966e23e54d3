"""Write a video from a checkpoint and an action script.

The script is a list of actions with numbers of frames: 'forward*20,left*10' walks for twenty frames and turns for ten;
'forward+left*5' holds two keys; 'stand' presses nothing. The video begins with the real frames of the chosen start, or with a picture
of your own.

Worlds that are told in words what to show take prompts with numbers of frames instead. They begin from nothing under the first of them, or
go on from the picture or start that is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mutoscope.commands.loading_options import LoadingOptions
from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from mutoscope.commands.loading import Loading
    from mutoscope.commands.spoken import Told
    from mutoscope.models.checkpoint import Checkpoint
    from mutoscope.rollout.session import SessionConfig


CLEAR_HEIGHT = 512
EXAMPLES = (
    "mutoscope generate runs/doom-basic/matching-2 --actions 'forward*20,left*10' --output walk.mp4",
    "mutoscope generate runs/scroll/consistency --actions 'right*16,down*16' --steps 4 --start 3 --scale 8",
    "mutoscope generate runs/doom-basic/matching-2 --actions 'left*200' --memory sink=2,window=6",
    "mutoscope generate runs/camera --prompts prompts --prompt 'a quiet street*77' --actions 'forward*40,turn_left*36'",
    "mutoscope generate runs/wan-1.3b/matching-2 --prompt 'a street*60' 'the same in rain*60' --device cuda --precision bf16",
    "mutoscope generate runs/wan-1.3b/bidirectional --prompt 'a street*81' --steps 50 --guidance 5 --device cuda --precision bf16",
    "mutoscope generate runs/wan-1.3b/matching-2 --image street.png --prompt 'a street*120' --device cuda --precision bf16",
)


@dataclass(frozen=True)
class Options:
    """Which checkpoint, which actions, and where the video goes."""

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint folder, a stage's folder in a run, or a bundled name."""
    actions: str = ""
    """The action script, such as 'forward*20,left*10'; beside prompts where a world is told in words and steered with keys."""
    prompt: tuple[str, ...] = ()
    """Prompts, each with its number of pixel frames after a star, one after the other, for worlds that are told in words what to show."""
    switch: Literal["recommit", "keep", "cut"] = "recommit"
    """What each further prompt does to the past: memory is written again under it, stays as it is, or is forgotten."""
    prompts: str = ""
    """Folder of prompts' embeddings (mutoscope embed); default: the checkpoint's own."""
    encoder: str = ""
    """Text encoder for prompts that have no embedding yet: minilm, or Wan's folder (docs/text.md). Gone before the model is loaded."""
    encoder_device: str = "cpu"
    """Where the text encoder works: cpu, cuda, ..."""
    encoder_dtype: Literal["float32", "bfloat16"] = "float32"
    """Its type: Wan's encoder has 5.7e9 weights, 22.7 GB in float32 and 11.4 GB in bfloat16."""
    output: Path = Path("generated.mp4")
    """The video file to write."""
    steps: int | None = None
    """Denoising steps per frame; default: what the checkpoint was trained for."""
    memory: str | None = None
    """Memory policy: window=16, sink=2,window=14 or full=200; default: the one it was trained with."""
    guidance: float = 1.0
    """Guidance of an undistilled teacher, by its actions and prompt; 1 is none."""
    start: int | Literal["none"] | None = None
    """Which of the checkpoint's real start clips to begin from, or "none" of them where worlds can begin from nothing; default: the world's
    own beginning, nothing for those and the first clip for all others."""
    image: Path | None = None
    """A picture (PNG, JPEG, ...) to begin from, in place of the checkpoint's start clips."""
    fit: Literal["crop", "stretch"] = "crop"
    """How a picture of another shape becomes one of the world's: its middle, scaled, or all of it, stretched."""
    seed: int = 0
    """Seed of the noise: the same seed gives the same video."""
    scale: int | None = None
    """Enlarge each pixel this many times, so that a small world can be looked at; default: up to 4 times, while no more than
    512 pixels are high."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""
    loading: tyro.conf.OmitArgPrefixes[LoadingOptions] = LoadingOptions()
    commits: Literal["own", "fused"] = "own"
    """A pass for each chunk's commit, or together with the next chunk's first pass: a forward less per chunk (full, window, recency)."""


def run(options: Options) -> int:
    """Generate and write the video."""
    from mutoscope.commands.checkpoints import find_checkpoint
    from mutoscope.commands.loading import loading_of
    from mutoscope.commands.pictures import read_pictures
    from mutoscope.commands.whole_video import check_whole
    from mutoscope.media.video import write_video
    from mutoscope.models.checkpoint import read_manifest

    if options.scale is not None and options.scale < 1:
        raise ConfigError(f"--scale must be at least 1, got {options.scale}")
    loading = loading_of(options.device, options.loading, options.commits)
    path = find_checkpoint(options.checkpoint)
    pictures = read_pictures([] if options.image is None else [options.image], options.fit)
    if read_manifest(path).stage == "bidirectional":
        check_whole(options, loading)
    lines = told_lines(options, path)
    checkpoint = pictures.before(loading.load(path))
    world = checkpoint.manifest.world
    frames, note = video(options, loading, checkpoint, lines)
    write_video(options.output, enlarge(frames, options.scale or clear_scale(world.height)), world.content_rate)
    print(f"{options.output}: {len(frames)} frames at {world.content_rate:g} frames/s, {note}")
    return 0


def video(options: Options, loading: Loading, checkpoint: Checkpoint, lines: list[tuple[Told, int]]) -> tuple[np.ndarray, str]:
    """Frames uint8 `[T, H, W, 3]` and what is said of them: one clip, the prompts one after the other, or what the keys steered."""
    from mutoscope.commands.checkpoints import session_config
    from mutoscope.commands.whole_video import whole_frames

    manifest = checkpoint.manifest
    if manifest.stage == "bidirectional":
        return whole_frames(options, checkpoint, lines), "one clip"
    config = session_config(manifest, steps=options.steps, policy=options.memory, seed=options.seed, guidance=options.guidance)
    config = loading.config(config)
    if manifest.text != "none":
        return told(options, checkpoint, config, lines), f"{len(lines)} prompts"
    return steered(options, checkpoint, config)


def steered(options: Options, checkpoint: Checkpoint, config: SessionConfig) -> tuple[np.ndarray, str]:
    """The video of a world with keys, from nothing or from a start clip, and which of both."""
    from mutoscope.commands.script import parse_script
    from mutoscope.core.shapes import pixel_frames

    script = parse_script(options.actions, checkpoint.manifest.world.actions)
    start = chosen_beginning(options, checkpoint)
    if start is None:
        wanted = pixel_frames(checkpoint.manifest.chunk_frames, checkpoint.codec.temporal_stride) + len(script)
        return streamed_frames(checkpoint, config, options, [(None, wanted)], script)[:wanted], "begun from nothing"
    frames = continue_start(checkpoint, config, start, script)
    return frames, f"the first {len(frames) - len(script)} are real"


def chosen_beginning(options: Options, checkpoint: Checkpoint) -> int | None:
    """The start clip to begin from, of which a picture is the first; None is nothing, where worlds begin so."""
    from_nothing = checkpoint.manifest.beginning == "nothing"
    if options.image is not None and options.start is not None:
        raise ConfigError(f"--image {options.image} stands in place of start clips; leave --start {options.start} out")
    if options.image is not None:
        return 0
    if options.start == "none" and not from_nothing:
        raise ConfigError(f"{checkpoint.path} was trained to go on from real frames; --start none is for worlds that begin from nothing")
    if options.start == "none" or options.start is None:
        return None if from_nothing else 0
    return options.start


def continue_start(checkpoint: Checkpoint, config: SessionConfig, start: int, script: np.ndarray) -> np.ndarray:
    """The real frames of start clip `start`, then one generated frame per row of `script` `[n, dim]`: uint8 `[T, H, W, 3]`."""
    import numpy as np

    from mutoscope.rollout.generate import generate

    starts = checkpoint.starts
    if starts is None:
        raise CheckpointError(f"{checkpoint.path} has no start clips to begin from; train it with this version, or copy starts.safetensors")
    if not 0 <= start < len(starts.frames):
        raise ConfigError(f"--start {start} does not exist; this checkpoint has starts 0..{len(starts.frames) - 1}")
    frames, actions, known = (tensor[start : start + 1].numpy() for tensor in (starts.frames, starts.actions, starts.known))
    with Progress(len(script), "generating") as bar:
        made = generate(checkpoint, config, frames=frames, context_actions=actions, known=known, actions=script[None], progress=bar.advance)
    return np.concatenate([frames[0], made[0]])


def told_lines(options: Options, path: Path) -> list[tuple[Told, int]]:
    """What a world is told, each prompt with its number of pixel frames, before its model is loaded; nothing where it takes no words."""
    from mutoscope.commands.spoken import Spoken, embed_beforehand
    from mutoscope.models.checkpoint import codec_file, read_manifest

    manifest = read_manifest(path)
    if manifest.text == "none":
        if options.prompt:
            raise ConfigError(f"{path} is not told in words what to show; give --actions in place of --prompt")
        return []
    codec_file(path, manifest)
    if not options.prompt or (options.actions and manifest.world.actions.kind == "none"):
        raise ConfigError(f"{path} is told in words what to show; give --prompt 'words*frames', and no --actions")
    spoken = Spoken(options.prompts, options.encoder, options.encoder_device, options.encoder_dtype)
    texts, counts = zip(*map(timed_prompt, options.prompt), strict=True)
    return list(zip(embed_beforehand(path, manifest, spoken, texts), counts, strict=True))


def told(options: Options, checkpoint: Checkpoint, config: SessionConfig, lines: list[tuple[Told, int]]) -> np.ndarray:
    """The video of a world that is told in words what to show, and of one that is steered besides."""
    import numpy as np

    from mutoscope.commands.script import parse_script

    actions = checkpoint.manifest.world.actions
    script = parse_script(options.actions, actions) if options.actions else np.zeros((0, actions.dim), np.float32)
    return streamed_frames(checkpoint, config, options, lines, script)


def timed_prompt(text: str) -> tuple[str, int]:
    """'a quiet street*60' -> the words and the number of pixel frames."""
    words, star, count = text.rpartition("*")
    if not star or not words.strip() or not count.strip().isdigit() or int(count) < 1:
        raise ConfigError(f"--prompt {text!r} is not words, a star and a number of pixel frames, such as 'a quiet street*60'")
    return words.strip(), int(count)


def streamed_frames(
    checkpoint: Checkpoint, config: SessionConfig, options: Options, lines: Sequence[tuple[Told | None, int]], script: np.ndarray
) -> np.ndarray:
    """Pixel frames of prompts one after the other (None: the world is told nothing), uint8 `[T, H, W, 3]`.

    They are whole chunks, so that a prompt may have some frames more. `script` `[n, action]`: what is pressed, frame by frame after the
    beginning; then nothing is.
    """
    import numpy as np

    from mutoscope.rollout.generate import advancing
    from mutoscope.rollout.session import Session

    session, made, pressed = Session(checkpoint, config), [], 0
    advance, start = advancing(session), chosen_beginning(options, checkpoint)
    with Progress(sum(count for _, count in lines), "generating") as bar:
        for index, (words, count) in enumerate(lines):
            begins = index == 0 or options.switch == "cut"
            if words is not None:
                session.say(*words, "keep" if options.switch == "cut" else options.switch)
            shown = [session.reset(start, options.seed + index)] if begins else []
            while sum(map(len, shown)) < count:
                held = script[pressed : pressed + session.pixel_frames]
                keys = np.pad(held, ((0, session.pixel_frames - len(held)), (0, 0)))
                shown.append(advance(keys[None])[0])
                pressed += session.pixel_frames
            made += shown
            bar.advance(count)
    return np.concatenate(made)


def clear_scale(height: int) -> int:
    """How many times pictures of so many rows are enlarged to be looked at: up to 4 times, while they are no higher than CLEAR_HEIGHT."""
    return max(1, min(4, CLEAR_HEIGHT // height))


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """Each pixel `scale` times in both directions: `[T, H, W, 3]` -> `[T, scale H, scale W, 3]`."""
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)
