"""Single tokens that heads choose from a store, each head of each layer for itself, and the slots that take them.

Pure functions on tensors, and two that act on a store: a choice as a chunk opens, and what is noted of every token for it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mutoscope.memory.ledger import ChunkPlan, Ledger
from mutoscope.memory.policy import AnyPolicy, ChoosingConfig
from mutoscope.memory.states import wide_type

if TYPE_CHECKING:
    from mutoscope.memory.store import MemoryStore

NOWHERE = -1  # no frame stands there: keys at it are turned anew before they are read
HOME_TYPE, MARK_TYPE = torch.int32, torch.float32
NEW = 2.0  # how much a token changed where nothing stood before


def token_participation(keys: Tensor, queries: Tensor) -> Tensor:
    """`sum q . k` of every token's key `[n, head, D]` over recent frames' queries, summed over theirs `[recent, head, D]`: `[n, head]`."""
    return (keys.to(wide_type(keys.dtype)) * queries.sum(0).to(wide_type(keys.dtype))).sum(-1)


def token_change(keys: Tensor, before: Tensor) -> Tensor:
    """1 - the cosine of tokens' keys `[.., n, D]` and those at the same places one frame before: `[.., n]` in 0 .. 2."""
    return 1 - cosine_similarity(keys.to(wide_type(keys.dtype)), before.to(wide_type(keys.dtype)), dim=-1)


def best_tokens(worth: Tensor, count: int) -> Tensor:
    """The numbers of the `count` best of `[.., n]`, rising: `[.., count]`; of equal ones the older, which stand first."""
    return worth.argsort(dim=-1, descending=True, stable=True)[..., :count].sort(dim=-1).values


def sifted(tokens: Tensor, picks: Tensor) -> Tensor:
    """Those tokens of `[.., head, n, D]` that each head picked, `[head, count]` -> `[.., head, count, D]`."""
    return tokens.gather(-2, picks[..., None].expand(*tokens.shape[:-2], picks.shape[-1], tokens.shape[-1]))


def asking_frames(policy: AnyPolicy, ledger: Ledger) -> tuple[int, ...]:
    """The frames against which a policy that chooses by content holds its candidates."""
    return policy.asking(ledger.remembered) if isinstance(policy, ChoosingConfig) else ()


def open_sifted(store: "MemoryStore", row: int, length: int, travelled: Tensor) -> ChunkPlan:
    """Open a chunk for which every head keeps single tokens: choose them and move them into their heirs' slots, layer by layer."""
    ledger, known, spec = store.ledgers[row], store.positions[row], store.spec
    candidates, heirs = ledger.candidates(length), ledger.heirs(length)
    source, target = (_tokens_of(store, [ledger.slot_of[frame] for frame in frames]) for frames in (candidates, heirs))
    worth = _noted(store, row, source) if spec.noted_slots else _asked(store, row, source, travelled)
    chosen = []
    for layer in range(spec.layers):
        picks = best_tokens(worth(layer), len(target))
        for tensor in (store.originals, store.values):
            tensor[layer, row][:, target] = sifted(tensor[layer, row][:, source], picks)
        for marks in (store.homes, store.changes) if spec.noted_slots else (store.homes,):
            marks[layer, row][:, target] = marks[layer, row][:, source].gather(-1, picks)
        chosen.append(picks)
    known.update({ledger.slot_of[frame]: NOWHERE for frame in heirs})
    return ledger.open_chunk(length, candidates, torch.stack(chosen))


def note_changes(store: "MemoryStore", layer: int, rows: slice, plan: ChunkPlan) -> None:
    """Note how much a committed chunk's tokens differ from those of the frame before theirs, which is remembered whole."""
    slots = {source.frame: source.slot for source in plan.sources} | dict(zip(plan.chunk.frames, plan.write_slots, strict=True))
    for frame in plan.chunk.frames:
        span, before = store.span(slots[frame]), slots.get(frame - 1)
        keys = store.originals[layer, rows, :, span]
        change = NEW if before is None else token_change(keys, store.originals[layer, rows, :, store.span(before)]).to(MARK_TYPE)
        store.changes[layer, rows, :, span] = change


Worth = Callable[[int], Tensor]
"""Layer -> how good every candidate token is to every head `[head, n]`."""


def _noted(store: "MemoryStore", row: int, source: Tensor) -> Worth:
    """By what was noted as their frames were committed."""
    return lambda layer: store.changes[layer, row][:, source]


def _asked(store: "MemoryStore", row: int, source: Tensor, travelled: Tensor) -> Worth:
    """By what a scorer says of their keys, as they stand, and of what is noted of the frames that ask."""
    ledger, known = store.ledgers[row], store.positions[row]
    slots = [ledger.slot_of[frame] for frame in asking_frames(store.spec.policy, ledger)]
    notes, stand = store.scorer.asking(store.notes[row, slots], travelled), tuple(known[slot] for slot in slots)
    return lambda layer: store.scorer.scores(store.keys[layer, row][:, source].transpose(0, 1), (), notes[:, layer], stand).T


def _tokens_of(store: "MemoryStore", slots: list[int]) -> Tensor:
    """The numbers of the tokens in some slots, side by side."""
    first = torch.tensor(slots, device=store.keys.device) * store.spec.tokens
    return (first[:, None] + torch.arange(store.spec.tokens, device=store.keys.device)).flatten()
