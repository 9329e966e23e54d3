"""What a model has learned about its keys: how far each moves the view, in picture heights (down) and widths (right).

python benchmarks/travel_steps.py runs/scroll/autoregressive runs/doom-cover/autoregressive --output results/travel_steps.json
"""

import argparse
from pathlib import Path

from mutoscope.commands.checkpoints import find_checkpoint
from mutoscope.core.errors import ConfigError
from mutoscope.core.files import write_json
from mutoscope.core.provenance import provenance
from mutoscope.models.checkpoint import load_checkpoint


def learned_steps(path: Path) -> dict:
    """Per key (down, right) of one checkpoint."""
    checkpoint = load_checkpoint(path)
    if not checkpoint.model.config.travel:
        raise ConfigError(f"{path} has no travel: its rotary positions stay on the screen")
    names = checkpoint.manifest.world.actions.names
    steps = checkpoint.model.travel.step.T.tolist()
    keys = {name: [round(value, 5) for value in step] for name, step in zip(names, steps, strict=True)}
    return {"world": checkpoint.manifest.world.name, "stage": checkpoint.manifest.stage, "keys": keys}


def main() -> None:
    """Read, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rows = [learned_steps(find_checkpoint(name)) for name in options.checkpoints]
    write_json(options.output, {"provenance": provenance(), "unit": "picture heights (down) and widths (right) per frame", "rows": rows})
    for row in rows:
        print(row["world"], row["stage"], ", ".join(f"{name} {down:+.3f} {right:+.3f}" for name, (down, right) in row["keys"].items()))


if __name__ == "__main__":
    main()
