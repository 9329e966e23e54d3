"""The command line: `mutoscope COMMAND ...`. Help at the top imports nothing heavy; each command is one file in `commands/`."""

import difflib
import importlib
import keyword
import sys
from collections.abc import Sequence
from types import ModuleType

from mutoscope import __version__
from mutoscope.core.errors import ConfigError, MutoscopeError

COMMANDS = {
    "record": "turn a world, or your own clips, into a data set",
    "check": "look a data set over: actions, duplicates, frozen clips, actions off by one",
    "embed": "write the embeddings of prompts or captions, for training and play without a text encoder",
    "prepare": "turn own videos into clips of latents for training on published weights",
    "train": "train every stage of a recipe, or resume where it stopped",
    "evaluate": "score checkpoints side by side on held-out episodes",
    "recall": "measure how long a world remembers what left the view",
    "prompts": "measure whether a world shows what it is told in words",
    "import": "turn published Wan weights into a checkpoint",
    "export": "write a checkpoint's model in diffusers' layout",
    "generate": "write a video from a checkpoint and an action script",
    "play": "play a learned world in the browser",
    "plan": "bytes of a memory per policy, for any model",
    "heads": "measure which attention heads need little memory",
    "study": "run a study: a grid of small trainings that answers one question",
    "bench": "measure latency and throughput on this machine",
}
EXAMPLES = (
    "mutoscope play",
    "mutoscope record doom --output data/doom --episodes 200",
    "mutoscope check data/doom",
    "mutoscope train scroll --output runs/scroll",
    "mutoscope generate runs/scroll/matching-2 --actions 'right*20,down*10' --output walk.mp4",
)
SUCCESS, MISTAKE, INTERRUPTED = 0, 2, 130


def entry() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command. The exit code: 0, what the command returns, 2 for a mistake that was explained, 130 for Ctrl-C."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return SUCCESS
    if arguments[0] == "--version":
        print(f"mutoscope {__version__}")
        return SUCCESS
    name, *rest = arguments
    if name not in COMMANDS:
        return _complain(f"mutoscope: unknown command '{name}'{_suggestion(name)}; known: {', '.join(COMMANDS)}")
    return run_command(name, command_module(name), rest)


def command_module(name: str) -> ModuleType:
    """The file of a command; one that is named like a keyword of the language has an underscore after its name."""
    return importlib.import_module(f"mutoscope.commands.{name}{'_' * keyword.iskeyword(name)}")


def run_command(name: str, command: ModuleType, arguments: Sequence[str]) -> int:
    """Parse the arguments into the command's `Options` and call its `run`; errors meant for people become one message."""
    try:
        return command.run(parse(name, command, arguments))
    except MutoscopeError as error:
        return _complain(f"mutoscope {name}: {error}")
    except KeyboardInterrupt:
        print(f"\nmutoscope {name}: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED


def parse(name: str, command: ModuleType, arguments: Sequence[str]) -> object:
    """The command's frozen `Options` from its arguments; wrong arguments end the process with code 2 and a hint.

    An option given twice is refused: the parser would silently take the last one alone.
    """
    import tyro

    options = [argument.split("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")]
    for option in options:
        if options.count(option) > 1:
            raise ConfigError(
                f"{option} is given more than once, and all but the last would be lost; give it once, with all of its values after it"
            )
    return tyro.cli(command.Options, prog=f"mutoscope {name}", description=describe(command), args=list(arguments))


def describe(command: ModuleType) -> str:
    """What the command's help says: the first paragraph of its module, then its examples."""
    return f"{(command.__doc__ or '').strip()}\n\nExamples:\n" + "\n".join(f"  {example}" for example in command.EXAMPLES)


def help_text() -> str:
    """The help of `mutoscope` itself."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    examples = "\n".join(f"  {example}" for example in EXAMPLES)
    return (
        "usage: mutoscope COMMAND [OPTIONS]\n\n"
        "A video diffusion model as a world that answers every key press with the next frame.\n\n"
        f"commands:\n{rows}\n\nexamples:\n{examples}\n\n'mutoscope COMMAND --help' shows a command's options, with examples."
    )


def _complain(message: str) -> int:
    print(message, file=sys.stderr)
    return MISTAKE


def _suggestion(name: str) -> str:
    nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""
