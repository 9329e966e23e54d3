"""Keys and values of eight bits: how far they are off, what they take, and what a memory of them shows."""

import pytest
import torch

from fakes import CHOOSING, POLICIES, RULES, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.memory.elements import decode, encode
from mutoscope.memory.extras import StoreExtras
from mutoscope.memory.policy import PolicyConfig
from streaming import CUTS, random_clip, stream_clip

# Relative error of a whole clip's velocities when this was written: 0.0016 to 0.0017 (int8), 0.0067 to 0.0069 (fp8), for six memories.
NEAR = {"int8": 0.004, "fp8": 0.015}
INTEGER: dict[str, PolicyConfig] = {"sink": POLICIES["sink"], "rolling": RULES["rolling"], "recency": RULES["recency"]}


def relative(made: torch.Tensor, wanted: torch.Tensor) -> float:
    """|made - wanted| / |wanted|."""
    return float((made - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", NEAR)
def test_no_channel_is_further_off_than_said(name):
    x = normal((3, 2, 50, 16), stream(0, "elements"), torch.float64) * torch.logspace(-3, 3, 50, dtype=torch.float64)[:, None]
    x[0, 0, 0] = 0
    codes, scales = encode(name, x)
    error, largest = (decode(codes, scales, torch.float64) - x).abs(), x.abs().amax(dim=-1, keepdim=True)
    bound = largest / 254 if name == "int8" else torch.maximum(x.abs() / 16, largest / 448 * 2**-10)
    assert codes.element_size() == 1 and bool((error <= 1.001 * bound + 1e-30).all())
    assert float(error.max()) > 0 and bool((error[0, 0, 0] == 0).all())


def test_elements_broken_twin_of_one_scale_for_all_tokens():
    x = normal((50, 16), stream(0, "elements"), torch.float64) * torch.logspace(-3, 3, 50, dtype=torch.float64)[:, None]
    scale = x.abs().max() / 127
    error = ((x / scale).round() * scale - x).abs()
    assert not bool((error <= x.abs().amax(dim=-1, keepdim=True) / 254).all())


def velocities(policy: PolicyConfig, extras: StoreExtras) -> torch.Tensor:
    """Those of a clip, streamed through a memory."""
    model = tiny_model()
    plain = model.new_store
    model.new_store = lambda *sizes: plain(*sizes, extras)  # type: ignore[method-assign]
    with torch.no_grad():
        return stream_clip(model, policy, CUTS["frame-wise"], random_clip(CUTS["frame-wise"]))


@pytest.mark.parametrize("policy", INTEGER)
@pytest.mark.parametrize("name", NEAR)
def test_a_memory_of_eight_bits_is_near_a_plain_one(policy, name):
    wanted = velocities(INTEGER[policy], StoreExtras())
    assert 0 < relative(velocities(INTEGER[policy], StoreExtras(name)), wanted) < NEAR[name]


@pytest.mark.parametrize("name", ["plain", *NEAR])
@pytest.mark.parametrize("policy", INTEGER)
def test_bytes_are_declared_beforehand(policy, name):
    store = tiny_model().float().new_store(INTEGER[policy], 3, 2, torch.zeros(0), StoreExtras(name, spare=3))
    assert store.bytes == store.spec.bytes(torch.float32)
    frames = store.keys.nbytes + store.key_slots.scales.nbytes
    assert frames == store.keys.numel() * (4 if name == "plain" else 1 + 4 / store.spec.head_dim)


def test_a_memory_of_eight_bits_is_parked_and_restored():
    model = tiny_model()
    stores = [model.new_store(POLICIES["window"], 1, 1, tiny_latents(1), StoreExtras("int8")) for _ in range(2)]
    rows, keys = slice(0, 1), normal((1, 2, 15, 12), stream(0, "park"), torch.float64)
    stores[0].write(0, rows, (1,), keys, keys, keys)
    stores[1].restore(stores[0].park())
    assert torch.equal(stores[1].read(0, rows, 45)[0], stores[0].read(0, rows, 45)[0]) and float(stores[1].read(0, rows, 45)[0].norm()) > 1
    with pytest.raises(ConfigError, match="another size"):
        model.new_store(POLICIES["window"], 1, 1, tiny_latents(1)).restore(stores[0].park())


@pytest.mark.parametrize("policy", [*CHOOSING.values(), RULES["ema-sink"]], ids=str)
def test_memories_that_read_their_own_keys_are_refused(policy):
    with pytest.raises(ConfigError, match="are for memories that go by a frame's number"):
        tiny_model().new_store(policy, 1, 1, tiny_latents(1), StoreExtras("int8"))
