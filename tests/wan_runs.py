"""A tiny Wan on disk with the videos, captions and prompts of somebody who wants to train on it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from mutoscope import cli
from mutoscope.core.config import to_plain
from mutoscope.core.files import write_json
from mutoscope.core.streams import numpy_stream
from mutoscope.media.video import write_video
from mutoscope.memory.policy import Window
from mutoscope.models.text_config import TextConfig
from mutoscope.train.config import RunConfig, UpdateConfig
from prompt_fakes import TOKENS, fake_cache
from wan_fakes import RUN, codec_tensors, wan_tensors, write_codec, write_diffusers

CAPTIONS = ("a red disc", "a blue cross")
CLIP_FRAMES, STRIDE = 3, 4
UPDATE = UpdateConfig(2, 2, 1e-3, warmup=0, save_every=2, log_every=1, average=0.9)
SHORT = {"update": UPDATE, "student_every": 2, "average_from": 0}
TINY: RunConfig = replace(
    RUN,
    memory=Window(CLIP_FRAMES),
    clip_frames=CLIP_FRAMES,
    text=TextConfig("umt5", TOKENS),
    precision="fp32",
    stages=tuple(
        replace(stage, **{key: value for key, value in SHORT.items() if hasattr(stage, key)})
        for stage in RUN.stages
        if stage.name in ("bidirectional", "autoregressive", "consistency", "matching-2")
    ),
)


def moving_pictures(frames: int, seed: int = 0, height: int = 32, width: int = 48) -> np.ndarray:
    """A picture of broad patches that slides sideways, uint8 `[frames, height, width, 3]`."""
    patches = numpy_stream(seed, "patches").integers(0, 256, (height // 8, width // 4, 3), dtype=np.uint8)
    wide = np.kron(patches, np.ones((8, 8, 1), np.uint8))
    return np.stack([np.roll(wide, -2 * frame, axis=1)[:, :width] for frame in range(frames)])


def write_videos(folder: Path, frames: tuple[int, ...] = (20, 62, 20), rate: float = 16.0) -> Path:
    """Videos a.mp4, b.mp4 .. of so many frames with captions in turn, that of the first beside it and the others in a table."""
    folder.mkdir(parents=True)
    names = [f"{chr(ord('a') + index)}.mp4" for index in range(len(frames))]
    for index, name in enumerate(names):
        write_video(folder / name, moving_pictures(frames[index], index), rate)
    (folder / "a.txt").write_text(CAPTIONS[0] + "\n")
    rows = [{"file": name, "caption": CAPTIONS[index % 2]} for index, name in enumerate(names) if index]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_published(folder: Path, run: RunConfig = TINY) -> None:
    """What one downloads (`wan/transformer`, `wan/vae`), embeddings of the captions (`prompts`), and the recipe (`run.json`)."""
    write_diffusers(folder / "wan" / "transformer", wan_tensors())
    write_codec(folder / "wan" / "vae", {name: 0.3 * tensor for name, tensor in codec_tensors().items()})
    fake_cache(folder / "prompts")
    write_json(folder / "run.json", to_plain(run))


def import_student(folder: Path) -> None:
    """The same, and imported as a student of two steps with its codec and prompts (`student`)."""
    write_published(folder)
    asked = ["import", str(folder / "run.json"), str(folder / "wan"), "--stage", "matching-2", "--codec", str(folder / "wan")]
    assert cli.main([*asked, "--output", str(folder / "student")]) == 0
    (folder / "prompts").rename(folder / "student" / "prompts")
