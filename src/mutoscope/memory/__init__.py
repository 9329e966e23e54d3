"""What a rollout remembers: policies and ledgers (integers), stores (tensors)."""

from mutoscope.memory.ledger import ChunkPlan, ChunkSources, Ledger, chunk_lengths, layout
from mutoscope.memory.policy import Chunk, Full, PolicyConfig, SinkWindow, Source, Window, policy_by_name, policy_name

__all__ = [
    "Chunk",
    "ChunkPlan",
    "ChunkSources",
    "Full",
    "Ledger",
    "PolicyConfig",
    "SinkWindow",
    "Source",
    "Window",
    "chunk_lengths",
    "layout",
    "policy_by_name",
    "policy_name",
]
