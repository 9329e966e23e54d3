"""Whether named tensors fit a module: what is missing, unexpected, of another shape, or not finite."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

MOST_NAMED = 8


def misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What does not fit, in words, key by key; tensors on the meta device may stand for those that are wanted."""
    problems = [f"missing {name}" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"unexpected {name}" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        if found[name].shape != wanted[name].shape:
            problems.append(f"{name} is {tuple(found[name].shape)}, needed {tuple(wanted[name].shape)}")
        elif not torch.isfinite(found[name]).all():
            problems.append(f"{name} holds NaN or infinity")
    return problems


def shortened(problems: Iterable[str]) -> str:
    """The first few problems, and how many more there are."""
    problems = list(problems)
    more = f" and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
    return "; ".join(problems[:MOST_NAMED]) + more
