"""Names of Wan 2.1's weights: ours are those of the original checkpoints; diffusers' are mapped here, one by one.

The maps are data. A name that no row has is returned as it is, so that it shows up as unexpected, under its own name.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mutoscope.core.errors import CheckpointError

Layout = Literal["original", "diffusers"]

# Modules (or parameters) at the top and in each block: ours -> diffusers'. What stands under the same name in both is in neither.
TOP = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
BLOCK = {
    **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in ATTENTION.items()},
    **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in ATTENTION.items()},
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
TOP_BACK = {theirs: ours for ours, theirs in TOP.items()}
BLOCK_BACK = {theirs: ours for ours, theirs in BLOCK.items()}
# What FSDP, activation checkpointing and torch.compile put into names, anywhere; and what wrappers put in front, as often as they wrap.
WRAPPERS = {"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}
PREFIXES = {"model", "module", "generator"}
# The camera branch of minWM's checkpoints, beside a layer's own projections: under this name in the original layout and in ours.
CAMERA = "prope_o"
IN_BLOCK = re.compile(r"(|.*\.)blocks\.(\d+)(\..+)")


@dataclass(frozen=True)
class Refusal:
    """Weights that this transformer has no place for, known by a part of their names."""

    parts: frozenset[str]
    what: str
    instead: str


REFUSALS = (
    Refusal(
        frozenset({"img_emb", "k_img", "v_img", "norm_k_img", "image_embedder", "add_k_proj", "add_v_proj", "norm_added_k"}),
        "the image inputs of Wan's image-to-video checkpoints",
        "take the text-to-video checkpoint of the same size and begin with the image (--image of generate and play), which is encoded "
        "and committed as frame 0",
    ),
    Refusal(
        frozenset({"vace_blocks", "vace_patch_embedding"}),
        "the control branch of VACE checkpoints",
        "take the text-to-video checkpoint of the same size",
    ),
    Refusal(
        frozenset({"lora_A", "lora_B", "lora_down", "lora_up"}),
        "LoRA adapters",
        "give the full weights, and the adapter beside them: mutoscope import ... --adapter FILE",
    ),
)


def plain_name(name: str) -> str:
    """A name without what wrappers put into it: `model._fsdp_wrapped_module.blocks.0.x` -> `blocks.0.x`."""
    parts = name.split(".")
    return ".".join(parts[place] for place in _own_places(parts))


def _own_places(parts: list[str]) -> list[int]:
    """Which parts of a name are the model's own, and no wrapper's."""
    places = [place for place, part in enumerate(parts) if part not in WRAPPERS]
    while len(places) > 1 and parts[places[0]] in PREFIXES:
        places = places[1:]
    return places


def wrapped_like(names: Iterable[str]) -> Callable[[str], str]:
    """Plain name -> the name that it would have among these, with what wrappers put into those of its neighbours."""
    known: dict[tuple[str, ...], str] = {}
    for name in names:
        parts = name.split(".")
        places = _own_places(parts)
        for depth, place in enumerate(places):
            known.setdefault(tuple(parts[own] for own in places[:depth]), "".join(f"{part}." for part in parts[:place]))

    def wrapped(plain: str) -> str:
        parts = plain.split(".")
        depth = next((depth for depth in range(len(parts) - 1, -1, -1) if tuple(parts[:depth]) in known), 0)
        return known.get(tuple(parts[:depth]), "") + ".".join(parts[depth:])

    return wrapped


def names_in_file(ours: Mapping[str, str]) -> Callable[[str], str]:
    """Our name -> the name that a file has for it, or would have if it were there. `ours`: what `our_names` said of the file."""
    theirs = {own: name for name, own in ours.items()}
    rename = to_diffusers if layout_of(map(plain_name, ours)) == "diffusers" else str
    wrapped = wrapped_like(ours)
    return lambda own: theirs[own] if own in theirs else wrapped(rename(own))


def layout_of(names: Iterable[str]) -> Layout:
    """Whose names these are; a CheckpointError where they are no Wan transformer's."""
    names = list(names)
    if any(name.startswith("condition_embedder.") for name in names):
        return "diffusers"
    if any(name.startswith("time_embedding.") for name in names):
        return "original"
    raise CheckpointError(
        f"these are not the weights of a Wan transformer: neither time_embedding.* (original) nor condition_embedder.* (diffusers) is "
        f"among {len(names)} names, such as {', '.join(names[:3]) or 'none'}"
    )


def to_diffusers(name: str) -> str:
    """Our name -> diffusers'."""
    return _renamed(name, TOP, BLOCK)


def from_diffusers(name: str) -> str:
    """Diffusers' name -> ours."""
    return _renamed(name, TOP_BACK, BLOCK_BACK)


def _renamed(name: str, top: Mapping[str, str], block: Mapping[str, str]) -> str:
    parts = name.split(".")
    if parts[0] == "blocks" and len(parts) > 2:
        return ".".join([*parts[:2], _looked_up(".".join(parts[2:]), block)])
    return _looked_up(name, top)


def _looked_up(name: str, table: Mapping[str, str]) -> str:
    """A parameter by its own name, or by that of its module."""
    module, dot, parameter = name.rpartition(".")
    return table[name] if name in table else table.get(module, module) + dot + parameter


def our_names(names: Iterable[str]) -> dict[str, str]:
    """Each name of a checkpoint -> our name for it. Two names for one weight, and weights that we have no place for, are refused."""
    plain = {name: plain_name(name) for name in names}
    for refusal in REFUSALS:
        if hit := [name for name in plain.values() if refusal.parts & set(name.split("."))]:
            raise CheckpointError(
                f"the checkpoint holds {refusal.what} ({listed(hit)}), which this transformer does not have; {refusal.instead}"
            )
    rename = from_diffusers if layout_of(plain.values()) == "diffusers" else str
    ours = {name: rename(stripped) for name, stripped in plain.items()}
    seen: dict[str, str] = {}
    for name, own in ours.items():
        if own in seen:
            raise CheckpointError(f"'{seen[own]}' and '{name}' are both '{own}'; the checkpoint holds one weight twice")
        seen[own] = name
    return ours


def listed(names: Iterable[str]) -> str:
    """Every name, with those that differ in the block alone as one: `blocks.{0-29}.norm3.bias`."""
    blocks: dict[tuple[str, str], list[int]] = {}
    for name in names:
        numbered = IN_BLOCK.fullmatch(name)
        key = (f"{numbered[1]}blocks.", numbered[3]) if numbered else (name, "")
        blocks.setdefault(key, []).extend([int(numbered[2])] if numbered else [])
    return ", ".join(head + (_numbers(sorted(numbers)) if numbers else "") + tail for (head, tail), numbers in sorted(blocks.items()))


def _numbers(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> `{0-2,5}`; a single one stands without braces."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return texts[0] if len(numbers) == 1 else f"{{{','.join(texts)}}}"
