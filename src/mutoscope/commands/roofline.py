"""How fast a session could be at best on this machine: its FLOPs over the measured peak, its bytes over the measured bandwidth."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mutoscope.commands.arithmetic import DeviceLimits
from mutoscope.models.transformer import TransformerConfig
from mutoscope.rollout.session import Session

ROUNDS, ROUND_SECONDS = 3, 0.05
COPY_BYTES = 1 << 27
# The attention kernel that torch's counter does not know.
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attention_flops(queries: torch.Size, keys: torch.Size, values: torch.Size, *rest: object, **named: object) -> int:
    """Of one call, from the shapes of queries, keys and values."""
    return sdpa_flop_count(queries, keys, values)


COUNTED = {CPU_ATTENTION: attention_flops}


def roofline(session: Session, action: np.ndarray) -> dict[str, float]:
    """FLOPs and bytes of one chunk (its steps, decode and commit), the machine's measured limits, and the least time in ms.

    The peak is that of the model's widest matrix product at its own number of tokens; the bytes are the weights and the
    whole cache, once per pass, and the decoder's weights once.
    """
    flops, moved = count_flops(session, action), count_bytes(session)
    frames = session.rows * session.chunk_frames
    peak, bandwidth = measure_peak(session.checkpoint.model.config, frames, session.device), measure_bandwidth(session.device)
    bounds = {"compute_ms": 1e3 * flops / peak, "memory_ms": 1e3 * moved / bandwidth}
    limits = {"peak_gflops_per_s": peak / 1e9, "bandwidth_gbytes_per_s": bandwidth / 1e9}
    return {"gflops": flops / 1e9, "mbytes": moved / 1e6, **limits, **bounds, "least_ms": max(bounds.values())}


def count_flops(session: Session, action: np.ndarray) -> float:
    """Floating-point operations of one chunk as torch counts them (matrix products, attention, convolutions)."""
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        session.step(action)
        session.commit()
    return float(counter.get_total_flops())


def count_bytes(session: Session) -> float:
    """Bytes that one chunk must read: weights and cache once per denoising pass and once for the commit, the decoder once."""
    passes = session.config.steps + 1
    return float(passes * (_weights(session.checkpoint.model) + session.memory_bytes) + _weights(session.checkpoint.codec.decoder))


def measured_limits(config: TransformerConfig, frames: int, device: torch.device, dtype: torch.dtype) -> DeviceLimits:
    """What this machine did just now, for a model that takes so many frames at a time."""
    peak, bandwidth = measure_peak(config, frames, device, dtype), measure_bandwidth(device)
    return DeviceLimits(peak, bandwidth, f"measured: {peak / 1e12:.3g} TFLOP/s of its feed-forward's product, {bandwidth / 1e9:.3g} GB/s")


def measure_peak(config: TransformerConfig, frames: int, device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of the feed-forward's first product at the model's own shape `[tokens of the frames, dim] x [dim, ffn_dim]`."""
    tokens = frames * config.grid.tokens
    drawn = torch.Generator(device).manual_seed(0)  # random numbers: a GPU multiplies equal ones faster
    left = torch.randn(tokens, config.dim, device=device, dtype=dtype, generator=drawn)
    right = torch.randn(config.dim, config.ffn_dim, device=device, dtype=dtype, generator=drawn)
    made = torch.empty(tokens, config.ffn_dim, device=device, dtype=dtype)
    return 2.0 * tokens * config.dim * config.ffn_dim / least_seconds(lambda: torch.mm(left, right, out=made), device)


def measure_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written together, of copying a tensor larger than any cache."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * COPY_BYTES / least_seconds(lambda: target.copy_(source), device)


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def least_seconds(work: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Of one call, in the fastest of a few rounds. A round queues many calls and waits once, as a stream does.

    Were every call of some tens of microseconds waited for, launching and waiting would count as its own, and the machine seem slower.
    """

    def seconds(calls: int) -> float:
        _wait(device)
        began = clock()
        for _ in range(calls):
            work()
        _wait(device)
        return clock() - began

    seconds(1)
    calls = 1
    while seconds(calls) < ROUND_SECONDS:
        calls *= 2
    return min(seconds(calls) for _ in range(ROUNDS)) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
