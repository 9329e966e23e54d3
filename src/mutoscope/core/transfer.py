"""From the host to a device without waiting. A wait in the frame loop costs more than the copy: the host can no longer work ahead."""

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A host tensor on a device, in the order of what else the device was given; on CUDA out of pinned memory, so that nobody waits.

    torch keeps pinned memory until copies from it are done (its caching allocator), and hands it out again without the driver.
    """
    pinned = tensor.pin_memory() if torch.device(device).type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)
