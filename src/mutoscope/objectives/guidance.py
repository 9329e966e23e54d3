"""Classifier-free guidance (arXiv 2207.12598) in the one form used here."""

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """v_u + w (v_c - v_u): w = 1 is conditional, w = 0 unconditional."""
    return unconditional + weight * (conditional - unconditional)
