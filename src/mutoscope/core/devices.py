"""How fast devices are by their makers' data sheets, and what share of that is taken to be reached."""

from dataclasses import dataclass, replace

from mutoscope.core.errors import ConfigError

GIB = 1 << 30
# Shares of the sheet's figures that are assumed until they are measured (`mutoscope plan --measured`): of FLOP/s in training, where matrix
# products are large, and of FLOP/s and bytes/s in play, where a frame is little work.
TRAINING_SHARE, PLAYING_SHARE, BANDWIDTH_SHARE = 0.4, 0.35, 0.7
# Of a device's memory that is not planned: the driver's own, and what an allocator cannot use of its blocks.
UNPLANNED = 0.08


@dataclass(frozen=True)
class Device:
    """flops, wide_flops: per second, of dense bfloat16 products with float32 sums, and of float32 ones.

    bandwidth: bytes/s of its memory; link: to the host; network: among such devices.
    """

    name: str
    memory_gib: float
    flops: float
    wide_flops: float
    bandwidth: float
    link: float
    network: float

    @property
    def planned_bytes(self) -> float:
        """What may be filled."""
        return self.memory_gib * GIB * (1 - UNPLANNED)

    def with_memory(self, memory_gib: float) -> "Device":
        """The same speed with another memory."""
        return replace(self, memory_gib=memory_gib)


DEVICES = {
    device.name: device
    for device in (
        Device("rtx-4060", 8, 30e12, 15e12, 272e9, 12e9, 12e9),
        Device("rtx-4080", 16, 97e12, 49e12, 717e9, 24e9, 24e9),
        Device("rtx-4090", 24, 165e12, 83e12, 1008e9, 24e9, 24e9),
        Device("l40s", 48, 362e12, 92e12, 864e9, 24e9, 24e9),
        Device("a100", 80, 312e12, 19.5e12, 2039e9, 24e9, 250e9),
        Device("h100", 80, 989e12, 67e12, 3350e9, 50e9, 400e9),
        Device("h200", 141, 989e12, 67e12, 4800e9, 50e9, 400e9),
    )
}


def device_for(gpu_memory: float, name: str) -> Device:
    """The named device, or the first of the table with at least that many GiB (or its largest); its memory is what was asked for."""
    if gpu_memory <= 0:
        raise ConfigError(f"--gpu-memory counts GiB and is above 0, got {gpu_memory}")
    if name and name not in DEVICES:
        raise ConfigError(f"unknown device '{name}'; known: {', '.join(DEVICES)}")
    fitting = [device for device in DEVICES.values() if device.memory_gib >= gpu_memory]
    chosen = DEVICES[name] if name else (fitting or [list(DEVICES.values())[-1]])[0]
    return chosen.with_memory(gpu_memory)
