"""Kinds of learned memory as configurations: what was saved before a memory could be told by last passes is read, and called, as it was."""

import hashlib
import json

import pytest

from mutoscope.core.config import config_hash, from_plain, to_plain
from mutoscope.core.errors import ConfigError
from mutoscope.memory.kinds import STATES, FastWeights, GatedDelta, LinearState, StateConfig, state_name
from mutoscope.memory.policy import PolicyConfig, Stateful, Window, policy_name

BEFORE = {
    "linear": {"is": "LinearState"},
    "gated-delta": {"is": "GatedDelta"},
    "fast-mlp": {"is": "FastWeights", "form": "mlp", "hidden": 1},
    "fast-swiglu": {"is": "FastWeights", "form": "swiglu", "hidden": 1},
}


@pytest.mark.parametrize("name", STATES)
def test_what_was_saved_before_is_written_from_commits_and_keeps_its_name(name):
    called = hashlib.sha256(json.dumps(BEFORE[name], sort_keys=True).encode()).hexdigest()[:16]
    assert config_hash(STATES[name]) == called
    assert from_plain(StateConfig, BEFORE[name]) == STATES[name] and STATES[name].written_from == "commit"


@pytest.mark.parametrize("state", [LinearState("last pass"), GatedDelta("last pass"), FastWeights("mlp", 1, "last pass")], ids=state_name)
def test_the_pass_that_writes_is_part_of_a_memory_but_not_of_its_name(state):
    policy, plain = Stateful(Window(4), state), to_plain(Stateful(Window(4), state))
    assert plain["state"]["written_from"] == "last pass" and from_plain(PolicyConfig, plain) == policy
    commit = from_plain(PolicyConfig, {**plain, "state": {**plain["state"], "written_from": "commit"}})
    assert config_hash(commit) != config_hash(policy) and policy_name(commit) == policy_name(policy)
    with pytest.raises(ConfigError, match="allowed: 'commit', 'last pass'"):
        from_plain(PolicyConfig, {**plain, "state": {**plain["state"], "written_from": "first pass"}})
