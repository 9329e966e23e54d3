"""A memory with anchors against a list: which frames it keeps once prompts have switched, and where they stand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.core.errors import ConfigError
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.frames import Chunk, Source
from mutoscope.memory.ledger import Ledger

sizes = st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(3, 6), st.integers(1, 3))
script = st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=25)


def regions(policy: Anchored, chunk: Chunk, switches: list[int]) -> list[tuple[int, int]]:
    """Frame and position of all that may be read, from the numbers of frames alone: every frame is asked whether it is in a region."""
    begin = max(0, min(chunk.start, chunk.start + chunk.length - policy.window))
    window = [frame for frame in range(chunk.start) if frame >= max(begin, policy.sink)]
    sinks = [frame for frame in range(chunk.start) if frame < policy.sink]
    prompts = [start for start in switches if start <= chunk.start][-policy.switches :]
    anchored = {start + step for start in prompts for step in range(policy.anchor)}
    anchors = [frame for frame in sorted(anchored) if policy.sink <= frame < chunk.start and frame not in window]
    border = window[0] if window else chunk.start
    before = [*sinks, *anchors]
    return [(frame, border - len(before) + place) for place, frame in enumerate(before)] + [(frame, frame) for frame in window]


def keeps_its_regions(policy: Anchored, rule: Anchored, played: list[tuple[int, bool]]) -> bool:
    """Play chunks, some after a switch, through a ledger of `policy`: slots must suffice, and its plans obey `rule`."""
    ledger, switches = Ledger(policy, policy.capacity(3)), []
    for length, switched in played:
        if switched:
            switches.append(ledger.next_frame)
            ledger.mark_switch()
        plan = ledger.open_chunk(length)
        if [(source.frame, source.position) for source in plan.sources] != regions(rule, plan.chunk, switches):
            return False
        ledger.commit()
    return True


@given(sizes, script)
def test_anchors_are_what_a_list_says(numbers, played):
    policy = Anchored(*numbers)
    assert keeps_its_regions(policy, policy, played)


class ForgetsAnchors(Anchored):
    def past_switches(self, chunk, remembered, switches):
        return super().past_switches(chunk, remembered, ())


class NeverMovesAnchors(Anchored):
    def past_switches(self, chunk, remembered, switches):
        return tuple(Source(source.frame, source.frame) for source in super().past_switches(chunk, remembered, switches))


@pytest.mark.parametrize("broken", [ForgetsAnchors(1, 2, 3), NeverMovesAnchors(1, 2, 3), Anchored(1, 1, 3), Anchored(0, 2, 3)])
def test_anchors_broken_twins(broken):
    assert not keeps_its_regions(broken, Anchored(1, 2, 3), [(1, False)] * 5 + [(1, True)] + [(1, False)] * 9)


def test_three_regions_by_hand():
    policy = Anchored(sink=1, anchor=2, window=4)
    sources = policy.past_switches(Chunk(30, 1), (0, 10, 11, 27, 28, 29), (10,))
    assert sources == (Source(0, 24), Source(10, 25), Source(11, 26), Source(27, 27), Source(28, 28), Source(29, 29))
    assert 30 - sources[0].position < policy.capacity(1), "no distance beyond the cache"


@given(sizes, script)
def test_distances_stay_within_the_cache(numbers, played):
    policy = Anchored(*numbers)
    ledger = Ledger(policy, policy.capacity(3))
    for length, switched in played:
        if switched:
            ledger.mark_switch()
        plan = ledger.open_chunk(length)
        assert all(0 <= plan.positions[-1] - source.position < policy.capacity(3) for source in plan.sources)
        ledger.commit()


@pytest.mark.parametrize(
    "make", [lambda: Anchored(anchor=0), lambda: Anchored(switches=0), lambda: Anchored(sink=-1), lambda: Anchored(window=0)]
)
def test_sizes_that_are_none_are_refused(make):
    with pytest.raises(ConfigError, match="needs"):
        make()
