"""Memory policies as they are written on the command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.commands.checkpoints import beside_memory, named_policy, parse_policy, policy_text
from mutoscope.core.errors import ConfigError
from mutoscope.memory.choosing import Different, Merging, Participative, Retrieval
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.kinds import FastWeights, GatedDelta, LinearState
from mutoscope.memory.policy import DeepSink, EmaSink, Full, RecencyBias, RollingWindow, SinkWindow, Stateful, Window

SIZES = st.integers(1, 99)
DECIMALS = st.integers(0, 100).map(lambda number: number / 100)
FRAMES = (
    st.builds(Window, SIZES)
    | st.builds(SinkWindow, SIZES, SIZES)
    | st.builds(DeepSink, st.integers(2, 99))
    | st.builds(RollingWindow, SIZES)
    | st.builds(RecencyBias, SIZES, DECIMALS, st.sampled_from([0.5, 1.0, 2.0]))
)
SOURCES = st.sampled_from(["commit", "last pass"])
STATES = (
    st.builds(LinearState, SOURCES)
    | st.builds(GatedDelta, SOURCES)
    | st.builds(FastWeights, st.sampled_from(["mlp", "swiglu"]), SIZES, SOURCES)
)
CHOOSING = st.builds(lambda sink, rest: Participative(sink + rest, rest, sink, 5), SIZES, SIZES) | st.builds(
    Retrieval, SIZES, SIZES, st.sampled_from(["similarity", "place"]), st.integers(1, 99).map(lambda number: number / 4)
)
CHOOSING |= st.builds(lambda recent, more: Different(recent + more + 1, recent), SIZES, SIZES)
TABLES = st.lists(st.lists(st.integers(0, 99), min_size=2, max_size=2, unique=True).map(lambda heads: tuple(sorted(heads))), max_size=3)
CHOOSING |= st.builds(lambda sink, more, table: HeadWise(2, sink, more, more + 2, more, tuple(table)), SIZES, SIZES, TABLES)
CHOOSING |= st.builds(lambda recent, more: Merging(recent + more + 1, recent), SIZES, SIZES)
POLICIES = st.builds(Full, SIZES) | st.builds(EmaSink, SIZES, SIZES, DECIMALS) | FRAMES | st.builds(Stateful, FRAMES, STATES) | CHOOSING


@given(POLICIES)
def test_policies_are_read_as_they_are_written(policy):
    assert parse_policy(policy_text(policy)) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window", "'window' is not a name and a number of frames; write it like window=16"),
        ("window=", "'window=' is not a name"),
        ("window=-1", "'window=-1' is not a name"),
        ("window=0", "window of at least 1, got 0"),
        ("window=4,window=5", "'window=5' is not a name"),
        ("ring=4", "unknown memory policy 'ring'; known: anchored, deep-sink, different, ema-sink"),
        ("window=4.5", "window=4.5 must be a whole number"),
        ("ema-sink=1,decay=2.0", "decay must be in 0 .. 1"),
        ("deep-sink=1", "frames of at least 2"),
        ("sink=4", "takes sink, window, got {'sink': 4}"),
        ("", "'' is not a name"),
        ("window=4+nothing", "unknown learned memory 'nothing'; known: fast-mlp"),
        ("window=4+linear=2", "only fast weights have a size"),
        ("full=9+linear", "gives no frame up"),
        ("window=4+linear,first-pass", "only ',last-pass' may follow"),
        ("retrieval=4+linear", "no learned memory stands beside frames chosen by content"),
        ("head-wise=2+linear", "no learned memory stands beside frames chosen by content"),
        ("head-wise=2,heads=0-1", "'heads=0-1' is not a name and a number of frames"),
        ("head-wise=2,heads=/0-1/3", "2 static heads needs as many in order for every layer, got \\(3,\\)"),
        ("head-wise=2,heads=few", "needs as many in order for every layer"),
        ("head-wise=/0-1", "is not a name and a number of frames"),
        ("head-wise=2,frames=/0", "frames=.* must be a whole number"),
        ("window=4,heads=/0", "takes window, got"),
        ("retrieval=few", "'retrieval=few' is not a name and a number of frames"),
        ("retrieval=4,window=big", "window=big must be a whole number"),
        ("retrieval=4,host_mib=big", "host_mib=big must be a number"),
        ("retrieval=4,by=smell", "unknown way to choose what is brought back 'smell'; known: place, similarity"),
        ("window=4,by=place", "takes window, got"),
        ("participative=8", "of 8 frames cannot keep 10 sinks and 4 recent ones"),
    ],
)
def test_policies_that_cannot_be_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_policy(text)


def test_a_learned_memory_stays_whatever_cache_is_asked_for():
    own = Stateful(Window(8), LinearState())
    assert beside_memory(Window(4), own) == Stateful(Window(4), LinearState())
    assert beside_memory(Window(4), Window(8)) == Window(4) and beside_memory(Full(9), own) == Full(9)
    assert beside_memory(Retrieval(), own) == Retrieval(), "which the model then refuses in words"


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("window", Window(12)),
        ("full", Full(12)),
        ("sink", SinkWindow(1, 11)),
        ("window:window=16", Window(16)),
        ("sink:window=14,sink=2", SinkWindow(2, 14)),
        ("full:full=200", Full(200)),
        ("full:frames=200", Full(200)),
        ("sink=2,window=14", SinkWindow(2, 14)),
        ("participative", Participative(9, 2, 6, 3)),
        ("participative=16", Participative()),
        ("retrieval", Retrieval(4, 8)),
        ("merging", Merging(12, 2)),
        ("different", Different(12, 2)),
        ("different=9,recent=3", Different(9, 3)),
        ("head-wise", HeadWise(1, 1, 3, 12, 2)),
        ("head-wise=2,window=4,frames=9,heads=/0-2/1-3", HeadWise(2, 1, 4, 9, 4, ((0, 2), (1, 3)))),
        ("retrieval=8", Retrieval(8, 13, "similarity", 256.0)),
        ("retrieval:recalled=2,window=4,by=place", Retrieval(2, 4, "place")),
    ],
)
def test_a_memory_is_named_with_or_without_its_sizes(text, policy):
    assert named_policy(text, 12) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ring", "unknown memory policy 'ring'; known: anchored, deep-sink, different, ema-sink"),
        ("ring:window=4", "unknown memory policy 'ring'; known: anchored, deep-sink, different, ema-sink"),
        ("window:length=4", "'window' takes window, got {'length': 4}"),
        ("sink:sink=4", "takes sink, window, got {'sink': 4}"),
        ("window:", "'' is not a name and a number of frames; write it like"),
        ("window:window=0", "window of at least 1, got 0"),
    ],
)
def test_memories_that_cannot_be_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        named_policy(text, 12)
