"""The real world beside dreamed ones under the same keys, as an animated GIF.

    python tools/side_by_side.py --output docs/pictures/real-and-dreamed.gif

Every pane begins at the same start clip; the pictures are those that the player shows.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mutoscope.commands.catalogue import build_catalogue
from mutoscope.commands.script import parse_script
from mutoscope.core.errors import ConfigError, MutoscopeError
from mutoscope.core.files import write_atomically
from mutoscope.serve.catalogue import PaneChoice, PaneOptions

SCRIPT = "forward*8,turn_right*12,forward*8,turn_left*18,forward+turn_left*8,turn_right*14"
GAP, COLOURS = 4, 64


def play(choice: PaneChoice, steps: int | None, start: int, script: np.ndarray) -> np.ndarray:
    """The pictures of one pane, uint8 `[T, H, W, 3]`; the first is the last real one of the start clip."""
    source = choice.make_source(PaneOptions(steps if choice.steps else None, choice.policies[0] if choice.policies else None))
    try:
        frames = [source.reset(start, 0)[-1]]
        for action in script:
            frames.append(source.step(action)[-1])
            source.commit()
    finally:
        source.close()
    return np.stack(frames)


def beside(panes: list[np.ndarray], scale: int) -> np.ndarray:
    """Panes `[T, H, W, 3]` in a row, enlarged, with a gap between."""
    large = [pane.repeat(scale, axis=1).repeat(scale, axis=2) for pane in panes]
    gap = np.full((*large[0].shape[:2], GAP, 3), 255, np.uint8)
    pieces = [piece for pane in large for piece in (gap, pane)]
    return np.concatenate(pieces[1:], axis=2)


def write_gif(path: Path, frames: np.ndarray, rate: float) -> None:
    """uint8 `[T, H, W, 3]` as an endless animation."""
    pictures = [Image.fromarray(frame).quantize(COLOURS, dither=Image.Dither.NONE) for frame in frames]
    options = {"save_all": True, "append_images": pictures[1:], "duration": round(1000 / rate), "loop": 0}
    write_atomically(path, lambda temporary: pictures[0].save(temporary, format="GIF", **options))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", help="default: the bundled student")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--actions", default=SCRIPT)
    parser.add_argument("--scale", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        catalogue = build_catalogue(tuple(options.checkpoints), "cpu")
        learned = [choice for choice in catalogue.choices if choice.kind == "learned"][: max(1, len(options.checkpoints))]
        shown = [*(choice for choice in catalogue.choices if choice.kind == "real"), *learned]
        if len(shown) == len(learned):
            raise ConfigError("the real world is not installed here; pip install 'mutoscope[record]'")
        world = learned[0].world
        script = parse_script(options.actions, world.actions)
        write_gif(
            options.output,
            beside([play(choice, options.steps, options.start, script) for choice in shown], options.scale),
            world.content_rate,
        )
    except MutoscopeError as error:
        print(f"side_by_side: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {', '.join(choice.label for choice in shown)}, {len(script)} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
