"""In which type a training computes; its weights are float32 throughout."""

import torch


def precision_context(precision: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where asked for, or with "auto" on devices that compute in it; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bf16(precision, device))


def computes_in_bf16(precision: str, device: torch.device) -> bool:
    """Whether a training of this precision computes in bfloat16 there."""
    return precision == "bf16" or (precision == "auto" and computes_bf16(device))


def computes_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 there: newer NVIDIA cards, and processors with instructions for them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return device.type == "cpu" and any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
