"""How a training clip is cut into chunks, and how a rollout's first frames are."""

from torch import Tensor

from mutoscope.memory.ledger import chunk_lengths
from mutoscope.models.attention import ClipLayout
from mutoscope.models.denoise import clip_layout
from mutoscope.models.transformer import VideoTransformer
from mutoscope.train.batch import Draws
from mutoscope.train.config import RunConfig


def context_choices(num_frames: int, chunk_frames: int, limit: int) -> tuple[int, ...]:
    """Context lengths of at least 1 and at most `limit` frames after which whole chunks fill the clip."""
    return tuple(first for first in range(1, min(limit, num_frames - chunk_frames) + 1) if (num_frames - first) % chunk_frames == 0)


def draw_context(run: RunConfig, draws: Draws, num_frames: int, limit: int) -> int:
    """A random context length for this update, equal on all ranks; none where worlds begin from nothing."""
    if run.beginning == "nothing":
        return 0
    choices = context_choices(num_frames, run.chunk_frames, limit)
    return choices[draws.shared("context length", len(choices))]


def draw_layout(run: RunConfig, model: VideoTransformer, draws: Draws, clean: Tensor) -> tuple[tuple[int, ...], ClipLayout]:
    """Chunk lengths of a training clip (context frames one by one, as in play) and their key sources."""
    context = draw_context(run, draws, clean.shape[1], run.clip_frames)
    lengths = chunk_lengths(clean.shape[1], run.chunk_frames, context)
    return lengths, clip_layout(model, run.memory, lengths, clean.device, context)
