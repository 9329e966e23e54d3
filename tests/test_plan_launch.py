"""What `mutoscope plan --gpu-memory` proposes can be launched: its commands parse, and give the run and the placement that were planned."""

import json
import shlex
from dataclasses import replace

import pytest

from mutoscope import cli
from mutoscope.commands import fitting, train
from mutoscope.commands.launching import Launch, memory_option, seconds
from mutoscope.commands.play import Options as PlayOptions
from mutoscope.commands.train import read_recipe
from mutoscope.core.devices import GIB, device_for
from mutoscope.memory.extras import StoreExtras, with_extras
from mutoscope.memory.policy import DeepSink, SinkWindow, Window
from mutoscope.models.live_bytes import DecodingBytes
from mutoscope.models.lora_config import LoraConfig
from mutoscope.recipes import recipe
from mutoscope.rollout.footprint import Playing, smaller_window
from mutoscope.train.footprint import Settings
from mutoscope.train.proposals import OPTIONS, RANK, Training, adapters, away, fewer_clips, fit_stage, options_of, shared_out, shorter_clips

RECIPE = recipe("wan-1.3b")
CODEC = DecodingBytes(GIB // 2, GIB, 3 * GIB)
LAUNCH = Launch("wan-1.3b", (), RECIPE)


def stage(name: str, **settings) -> Training:
    found = RECIPE.stage(name)
    return Training(RECIPE, found, fitting.stage_transformer(RECIPE, found), Settings(8, text=512, codec=CODEC, **settings))


def parsed(command: str) -> tuple[train.Options, int]:
    """What the command line makes of a command, and how many processes it starts."""
    words, processes = shlex.split(command), 1
    if words[0] == "torchrun":
        assert words[1] == "--nproc-per-node" and words[3] == "-m"
        processes, words = int(words[2]), words[4:]
    assert words[:2] == ["mutoscope", "train"]
    return cli.parse("train", train, words[2:]), processes


def launched(training: Training) -> str:
    changes = training.changes(RECIPE)
    return LAUNCH.train((training.stage.name,), changes, training.placement, training.settings.processes)


def is_launched_as_planned(training: Training, command: str) -> bool:
    """Whether a command's run, placement and processes are those of a plan, and its micro-batches have as many clips."""
    options, processes = parsed(command)
    run = read_recipe(options.recipe, options.set)
    update = run.stage(options.stages[0]).update
    lora = LoraConfig(RANK, float(RANK)) if training.settings.adapters else "all weights"
    wanted = replace(training.stage.update, accumulate=update.accumulate, trains=lora)
    clips = update.batch_size // (update.accumulate * processes)
    return (
        (update, clips, processes) == (wanted, training.settings.micro_clips, training.settings.processes)
        and replace(run, stages=()) == replace(training.run, stages=())
        and options.placement == training.placement
    )


STEPS = {
    "nothing": (),
    "clips": (fewer_clips, fewer_clips, fewer_clips),
    "all that costs time": (fewer_clips, OPTIONS[2].change, away("optimisers").change, away("frozen models").change),
    "adapters and frames": (fewer_clips, adapters, shorter_clips, shorter_clips),
    "devices": (shared_out(4).change, shared_out(4).change, away("optimisers").change),
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("name", ["consistency", "matching-2"])
def test_a_command_launches_what_was_planned(name, steps):
    training = stage(name)
    for step in steps:
        training = step(training)
    assert training.launchable and is_launched_as_planned(training, launched(training))


def test_a_command_broken_twin():
    """A command of other settings is found."""
    training = fewer_clips(stage("consistency"))
    assert not is_launched_as_planned(training, launched(fewer_clips(training)))
    assert not is_launched_as_planned(training, launched(away("optimisers").change(training)))
    assert not is_launched_as_planned(training, launched(adapters(training)))
    assert not is_launched_as_planned(training, launched(shorter_clips(training)))


@pytest.mark.parametrize("memory", [48, 80])
@pytest.mark.parametrize("name", ["autoregressive", "matching-2"])
def test_wan_is_trained_with_what_there_is(name, memory):
    steps = fit_stage(stage(name), device_for(memory, ""))
    end = steps[-1].state
    assert steps[-1].cost.bytes <= device_for(memory, "").planned_bytes and end.launchable and all(step.option.ready for step in steps)
    assert is_launched_as_planned(end, launched(end))


def test_what_is_only_modelled_is_shown_when_it_is_asked_for(capsys):
    assert {option.name for option in options_of(1, True)} > {option.name for option in options_of(1, False)}
    assert cli.main(["plan", "scroll", "--gpu-memory", "0.02", "--with-proposed"]) == 0
    assert "(proposed)" in capsys.readouterr().out
    masked = stage("autoregressive", attention="masked")
    assert not masked.launchable and not stage("matching-2", offload=("averages",)).launchable


def test_frozen_models_stay_where_adapters_read_them():
    waiting = away("frozen models").change(stage("consistency"))
    adapted = adapters(waiting)
    assert waiting.settings.offload == ("frozen models",) and adapted.settings.offload == ()
    assert away("frozen models").change(adapted) is None
    assert adapters(stage("autoregressive", offload=("optimisers",))).settings.offload == ("optimisers",)


def test_stages_that_cannot_adapt_are_not_asked_to():
    run = recipe("scroll")
    whole = run.stage("bidirectional")
    assert adapters(Training(run, whole, fitting.stage_transformer(run, whole), Settings(1))) is None


def test_an_update_takes_whole_micro_batches():
    update = replace(RECIPE.stage("consistency").update, batch_size=12, accumulate=1)
    odd = replace(stage("consistency"), stage=replace(RECIPE.stage("consistency"), update=update), settings=Settings(12))
    counts = [odd.settings.micro_clips]
    while (fewer := fewer_clips(odd)) is not None:
        odd = fewer
        counts.append(odd.settings.micro_clips)
    assert counts == [12, 6, 3, 1]
    assert shared_out(8).change(replace(odd, settings=Settings(6, processes=2))) is None


def test_a_recipe_as_a_whole_has_one_clip_length_and_all_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "decoders", lambda run: pytest.fail("not asked"))
    planner = fitting.Planner(LAUNCH, CODEC, fitting.Shares(), cli.parse("plan", cli.command_module("plan"), ["wan-1.3b"]))
    device = device_for(48, "")
    names = ("autoregressive", "matching-2")
    stages = [fitting.fit_training(planner, RECIPE, RECIPE.stage(name), device) for name in names]
    lengths = [fit.trained.run.clip_frames for fit in stages]
    assert lengths == [14, 21], "each alone has the longest clips that fit"
    whole = fitting.whole_recipe(planner, stages, device)
    assert (
        whole.clip_frames == 14
        and whole.missing == ()
        and whole.seconds == pytest.approx(sum(each * updates for _, each, updates in whole.stages))
    )
    for command in whole.commands:
        options, _ = parsed(command)
        run = read_recipe(options.recipe, options.set)
        assert run.clip_frames == 14 and all(run.stage(name).update.accumulate == 64 for name in names)
    small = [fitting.fit_training(planner, RECIPE, RECIPE.stage(name), device_for(8, "")) for name in names]
    assert fitting.whole_recipe(planner, small, device_for(8, "")).missing == names


def test_samples_are_a_moment_of_their_own():
    """Published sizes draw one row, with keys and values of eight bits; others draw four. The model itself is shown, and no copy."""
    small = stage("autoregressive", blocks="computed again", adapters=4)
    worst = dict(small.footprint.moments)["samples"]
    cache = with_extras(small.config.cache(RECIPE.memory, 1, 1), StoreExtras("int8")).bytes()
    assert 3 * cache < small.config.cache(RECIPE.memory, 1, 1).bytes()
    assert cache + CODEC.state + CODEC.working < worst < 1.05 * (cache + CODEC.state + CODEC.working)
    shorter, wide = small, DecodingBytes(0, 8 * GIB, 8 * GIB)
    while (fewer := shorter_clips(shorter)) is not None:
        shorter = fewer
    lone = shorter.under(replace(shorter.settings, micro_clips=1, codec=replace(wide, weights=1))).footprint
    drawn = worst - CODEC.state - CODEC.working + wide.state + wide.working
    assert lone.worst == ("samples", drawn) and lone.peak == sum(amount for _, amount in lone.resident) + drawn
    run = recipe("scroll")
    learnt = Training(run, run.stage("autoregressive"), fitting.stage_transformer(run, run.stage("autoregressive")), Settings(1))
    assert "samples" not in dict(learnt.footprint.moments)
    drawn = dict(learnt.under(replace(learnt.settings, codec=DecodingBytes(1, 0, 0))).footprint.moments)["samples"]
    assert drawn > 4 * learnt.config.cache(run.memory, run.chunk_frames, 1).bytes()


def test_play_may_have_a_smaller_memory_than_it_was_trained_with(tmp_path, monkeypatch):
    playing = Playing(stage("matching-2").config, Window(21), (), 3, 2)
    sizes = []
    while (fewer := smaller_window(playing)) is not None:
        playing = fewer
        sizes.append(playing.policy.window)
    assert sizes == [14, 9, 6], "not less than a chunk and three frames"
    assert smaller_window(replace(playing, policy=SinkWindow(2, 12))).policy == SinkWindow(2, 8)
    assert smaller_window(replace(playing, policy=DeepSink(6))) is None
    flag, text = memory_option(SinkWindow(2, 8)).split()
    played = cli.parse("play", cli.command_module("play"), [flag, text])
    assert isinstance(played, PlayOptions) and text == "sink:sink=2,window=8"
    from mutoscope.commands.checkpoints import named_policy

    assert named_policy(text, 99) == SinkWindow(2, 8)


def test_changes_are_planned_and_stand_in_every_command(tmp_path, capsys):
    file = tmp_path / "fits.json"
    changed = ["plan", "scroll", "--gpu-memory", "80", "--set", "model.dim=96", "--output", str(file)]
    assert cli.main(changed) == 0
    written, printed = json.loads(file.read_text()), capsys.readouterr().out
    commands = [fit["command"] for fit in written["fits"] if fit["unit"] == "update"]
    assert commands and all(read_recipe("scroll", parsed(command)[0].set).model.dim == 96 for command in commands)
    assert commands[0] in printed and "the whole recipe on 80 GiB" in printed
    first = written["fits"][0]
    assert f"{first['end']['units']:,} updates: {seconds(first['end']['units'] * first['end']['seconds'])}" in printed


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0123, "12.3 ms"), (5.21, "5.2 s"), (441.2, "441 s"), (4000, "67 min"), (9000, "2 hours"), (441 * 10_000, "51 days")],
)
def test_seconds_are_told_in_units_of_people(amount, text):
    assert seconds(amount) == text
