"""The command line: instant help, mistakes as messages, action scripts, and every command's own help."""

import subprocess
import sys
from dataclasses import dataclass, is_dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope import __version__, cli
from mutoscope.commands.script import parse_script
from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.world import ActionSpec

BUTTONS = ActionSpec("multi_binary", ("forward", "backward", "turn_left", "turn_right"))
MOVES = ActionSpec("discrete", ("stand", "up", "down", "left", "right"))
HEAVY = {"torch", "numpy", "tyro", "starlette", "av", "cv2", "vizdoom", "gymnasium", "matplotlib"}


def modules_after(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print('MODULES', *sys.modules)"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("MODULES")[1].split())


def test_help_imports_nothing_heavy_broken_twin_included():
    help_at_the_top = "from mutoscope.cli import main; main(['--help'])"
    assert not HEAVY & modules_after(help_at_the_top)
    assert HEAVY & modules_after("import numpy\n" + help_at_the_top) == {"numpy"}


def test_help_lists_every_command(capsys):
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert cli.main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(name in printed for name in cli.COMMANDS) and "examples:" in printed


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mutoscope {__version__}\n"


@pytest.mark.parametrize(("given_name", "nearest"), [("trian", "train"), ("plya", "play"), ("evaluat", "evaluate")])
def test_an_unknown_command_suggests_the_nearest(capsys, given_name, nearest):
    assert cli.main([given_name]) == 2
    assert f"unknown command '{given_name}' (did you mean '{nearest}'?); known: record, check" in capsys.readouterr().err


def test_an_unknown_command_far_from_all_lists_them(capsys):
    assert cli.main(["xylophone"]) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("again", [("--set", "seed=2"), ("--set=seed=2",)])
def test_an_option_given_twice_is_refused_before_one_of_them_is_lost(capsys, again):
    assert cli.main(["train", "scroll", "--set", "seed=1", *again]) == 2
    assert "--set is given more than once" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_examples(name, capsys):
    command = cli.command_module(name)
    assert is_dataclass(command.Options) and command.EXAMPLES
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0 and f"usage: mutoscope {name}" in printed
    for example in command.EXAMPLES:
        assert example in printed and example.startswith(f"mutoscope {name}")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_example_parses(name):
    import shlex

    command = cli.command_module(name)
    for example in (*command.EXAMPLES, *cli.EXAMPLES):
        words = shlex.split(example)
        if words[1] == name:
            assert isinstance(cli.parse(name, command, words[2:]), command.Options)


@dataclass(frozen=True)
class Options:
    count: int = 1


def fake(error: BaseException | None) -> SimpleNamespace:
    def run(options: Options) -> int:
        if error is not None:
            raise error
        return options.count

    return SimpleNamespace(Options=Options, EXAMPLES=("mutoscope fake --count 3",), run=run, __doc__="Fake.")


def test_a_command_returns_its_code():
    assert cli.run_command("fake", fake(None), ["--count", "3"]) == 3


def test_an_error_for_people_is_one_message_without_a_traceback(capsys):
    assert cli.run_command("fake", fake(DataError("data/maze does not exist; record it first")), []) == 2
    assert capsys.readouterr().err == "mutoscope fake: data/maze does not exist; record it first\n"


def test_a_defect_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        cli.run_command("fake", fake(ZeroDivisionError()), [])


def test_ctrl_c_is_a_sentence(capsys):
    assert cli.run_command("fake", fake(KeyboardInterrupt()), []) == 130
    assert "stopped by Ctrl-C" in capsys.readouterr().err


def test_a_wrong_option_ends_with_a_hint(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.run_command("fake", fake(None), ["--cuont", "3"])
    assert stopped.value.code == 2 and "--count" in capsys.readouterr().err


def test_the_script_of_the_readme():
    script = parse_script("forward*20,left*10", BUTTONS)
    assert script.shape == (30, 4) and script.dtype == np.float32
    assert (script[:20] == [1, 0, 0, 0]).all() and (script[20:] == [0, 0, 1, 0]).all()


def written(items: list[tuple[list[str], int]]) -> str:
    return ",".join(f"{'+'.join(names)}*{count}" for names, count in items)


ITEMS = st.lists(
    st.tuples(st.lists(st.sampled_from(BUTTONS.names), min_size=1, max_size=4, unique=True), st.integers(1, 9)), min_size=1, max_size=5
)


def says_what_was_written(parse, items: list[tuple[list[str], int]]) -> bool:
    pressed = [{BUTTONS.names[index] for index in np.flatnonzero(row)} for row in parse(written(items), BUTTONS)]
    return pressed == [set(names) for names, count in items for _ in range(count)]


@given(ITEMS)
def test_a_script_says_what_was_written(items):
    assert says_what_was_written(parse_script, items)


def test_a_script_broken_twin_that_is_off_by_one():
    items = [(["forward"], 3), (["turn_left"], 2)]
    assert says_what_was_written(parse_script, items)
    assert not says_what_was_written(lambda text, actions: np.roll(parse_script(text, actions), 1, axis=0), items)


@pytest.mark.parametrize(
    ("text", "spec", "same"),
    [
        ("stand*2", BUTTONS, "stand,stand"),
        (" forward + left * 2 , stand ", BUTTONS, "forward+turn_left*2,stand"),
        ("left", MOVES, "left*1"),
        ("stand*3", MOVES, "stand,stand*2"),
    ],
)
def test_short_forms(text, spec, same):
    assert np.array_equal(parse_script(text, spec), parse_script(same, spec))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forward*3,lft*2", r"item 2 'lft\*2': unknown action 'lft' \(did you mean 'turn_left'\?\); known: stand, forward"),
        ("", "item 1 '': unknown action ''"),
        ("forward,", "item 2 '': unknown action ''"),
        ("forward+", "item 1 'forward[+]': unknown action ''"),
        ("turn", "unknown action 'turn'"),
        ("forward*0", "after '[*]' stands a number of frames from 1 to 100000, not '0'"),
        ("forward*-1", "not '-1'"),
        ("forward*", "not ''"),
        ("forward*2*2", r"not '2\*2'"),
        ("forward*1e3", "not '1e3'"),
        ("forward*" + "9" * 5000, "a number of frames"),
        ("forward*100000,forward", "100001 frames long; at most 100000"),
    ],
)
def test_a_bad_part_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_script(text, BUTTONS)


def test_two_moves_at_once_where_only_one_can_be():
    with pytest.raises(ConfigError, match=r"item 1 'up\+down': .*one action at a time"):
        parse_script("up+down", MOVES)
