"""Random streams have names: equal names, equal numbers; other names, unrelated numbers; the global state is never touched."""

import random
from collections.abc import Callable

import numpy as np
import torch

from mutoscope.core.streams import derive_seed, normal, numpy_stream, stream

NAMES = [
    (seed, purpose, *indices) for seed in (0, 1) for purpose in ("noise", "data") for indices in ((), (0,), (1,), (0, 1), (1, 0), (10,))
]


def draws_are_independent(make: Callable[..., np.random.Generator]) -> bool:
    """Drawing more from one stream must not change what another gives; every name must give its own numbers."""
    alone = make(0, "noise").random(4)
    other = make(0, "data")
    other.random(7)
    after = make(0, "noise").random(4)
    distinct = {tuple(make(*name).random(4)) for name in NAMES}
    return bool((alone == after).all()) and len(distinct) == len(NAMES)


def test_streams_are_independent():
    assert draws_are_independent(numpy_stream)


def test_streams_broken_twin_that_shares_one_generator():
    shared = np.random.default_rng(0)
    assert not draws_are_independent(lambda *name: shared)


def test_streams_broken_twin_that_forgets_the_indices():
    assert not draws_are_independent(lambda seed, purpose, *indices: numpy_stream(seed, purpose))


def test_torch_and_numpy_streams_repeat_and_fill_their_range():
    first, again = normal((1000,), stream(3, "noise", 5)), normal((1000,), stream(3, "noise", 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, normal((1000,), stream(3, "noise", 6)))
    assert abs(float(first.mean())) < 0.15 and abs(float(first.std()) - 1) < 0.1


def test_seeds_are_stable_over_versions_and_fit_63_bits():
    assert all(0 <= derive_seed(*name) < 1 << 63 for name in NAMES)
    assert derive_seed(0, "noise", 1, 2) == derive_seed(0, "noise", np.int64(1), torch.tensor(2))
    assert derive_seed(0, "noise", 1, 2) == 7454679448656141705


def test_the_global_random_state_is_untouched():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    normal((8,), stream(0, "noise"))
    numpy_stream(0, "noise").random(8)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
