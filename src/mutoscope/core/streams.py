"""Named random streams: every draw comes from a generator derived from (seed, purpose, step, rank).

Nothing in the package uses the global random state, so that a run can resume bit for bit and so that
adding one draw never shifts another.
"""

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed from a hash of the name: `derive_seed(0, "noise", step, rank)`."""
    name = f"{seed}/{purpose}/" + "/".join(str(int(index)) for index in indices)
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def stream(seed: int, purpose: str, *indices: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator of that name."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, purpose, *indices))
    return generator


def numpy_stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A NumPy generator of that name."""
    return np.random.default_rng(derive_seed(seed, purpose, *indices))


def normal(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal noise of `shape`, on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
