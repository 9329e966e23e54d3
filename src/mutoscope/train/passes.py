"""Which passes an update of each stage makes: with gradient, without, and in rollouts. What train.stages does, as a list."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from mutoscope.core.errors import ConfigError
from mutoscope.memory.ledger import ChunkSources, chunk_lengths, layout
from mutoscope.memory.policy import PolicyConfig, for_frames, integer_base, moving_slots
from mutoscope.models.arithmetic import Going, Reach, gathered, masked, reads_of, whole_clip
from mutoscope.models.transformer import TransformerConfig
from mutoscope.train.config import (
    AutoregressiveStage,
    BidirectionalStage,
    ConsistencyStage,
    LearningStage,
    MatchingStage,
    OdeStage,
    RunConfig,
    StageConfig,
)
from mutoscope.train.stages.clips import context_choices


@dataclass(frozen=True)
class Cast:
    """How many models a stage has: those that learn, those that do not, and with adapters the different weights under all of them."""

    learners: int
    frozen: int
    bases: int


CASTS: dict[type[StageConfig], Cast] = {
    BidirectionalStage: Cast(1, 0, 1),
    AutoregressiveStage: Cast(1, 0, 1),
    OdeStage: Cast(1, 1, 1),
    ConsistencyStage: Cast(1, 1, 1),
    MatchingStage: Cast(2, 1, 2),
}


def cast_of(stage: LearningStage) -> Cast:
    """Its models."""
    if type(stage) not in CASTS:
        raise ConfigError(f"stage '{stage.name}' trains no transformer; those that do: {', '.join(kind.__name__ for kind in CASTS)}")
    return CASTS[type(stage)]


@dataclass(frozen=True)
class Cut:
    """What of a stage's settings decides about its passes: clips of a micro-batch, how chunks attend, and tokens of a prompt."""

    clips: int
    attention: Literal["gathered", "masked"]
    text: int


@dataclass(frozen=True)
class Turn:
    """A learner's turn in an update, for one micro-batch.

    often     turns per update
    taught    passes whose gradient is taken
    free      other passes of whole clips
    streamed  passes of rollouts, chunk by chunk
    context   the clean half whose keys and values are held meanwhile
    cached    numbers that a rollout's memory holds
    moving    whether chunks read frames at other positions than their own, from keys without their positions
    """

    learner: str
    often: float
    taught: tuple[Going, ...]
    free: tuple[Going, ...] = ()
    streamed: tuple[Going, ...] = ()
    context: Going | None = None
    cached: int = 0
    moving: bool = False


@lru_cache(maxsize=64)
def turns_of(run: RunConfig, stage: LearningStage, config: TransformerConfig, cut: Cut) -> tuple[tuple[Turn, ...], ...]:
    """An update's turns, once for each way in which its clips may be cut into chunks; all of them are equally likely."""
    clip = _Clip(run, stage, config, cut)
    if isinstance(stage, BidirectionalStage):
        return ((Turn("model", 1, (clip.whole(),)),),)
    if isinstance(stage, MatchingStage):
        return tuple(_matching(stage, clip, lengths, context) for lengths, context in clip.cuts(stage.max_context))
    return tuple(
        (_teacher_forced(stage, clip, lengths),) for lengths in dict.fromkeys(lengths for lengths, _ in clip.cuts(run.clip_frames))
    )


def _teacher_forced(stage: LearningStage, clip: "_Clip", lengths: tuple[int, ...]) -> Turn:
    """The clean half and the noisy one; consistency also asks the teacher twice and the target once, each with a clean half of its own."""
    clean, noisy = clip.halves(lengths)
    free: tuple[Going, ...] = ()
    if isinstance(stage, ConsistencyStage):
        free = (replace(clean, passes=2), replace(noisy, passes=3))
    if isinstance(stage, OdeStage):
        solved = max(1, stage.trajectories // stage.update.batch_size) / stage.update.updates
        free = (replace(clean, passes=solved), replace(noisy, passes=2 * solved * stage.solver_steps))
    moving = moving_slots(integer_base(clip.memory), clip.memory.capacity(clip.run.chunk_frames)) > 0
    return Turn("model", 1, (clean, noisy), free, context=clean, moving=moving)


def _matching(stage: MatchingStage, clip: "_Clip", lengths: tuple[int, ...], context: int) -> tuple[Turn, ...]:
    """The critic on the student's clips, and every few updates the student: its rollout, its replay, two scores and the critic's."""
    whole, (clean, noisy) = clip.whole(), clip.halves(lengths)
    streamed, cached = clip.rollout(stage, lengths, context), clip.cached()
    critic = Turn("critic", 1, (whole,), streamed=streamed if stage.rollouts == "own" else (), cached=cached)
    moves = 1 / stage.student_every
    return critic, Turn("student", moves, (noisy,), (clean, replace(whole, passes=3)), streamed, clean, cached)


@dataclass(frozen=True)
class _Clip:
    """The clips of a stage, and the passes over them."""

    run: RunConfig
    stage: LearningStage
    config: TransformerConfig
    cut: Cut

    @property
    def frames(self) -> int:
        """Of its longest clips or rollouts."""
        return self.run.frames_read(self.stage)

    def going(self, frames: int, reach: Reach) -> Going:
        """A pass over the clips of a micro-batch."""
        return Going(self.config, self.cut.clips, frames, reach, self.cut.text)

    def whole(self) -> Going:
        """A clip at once."""
        return self.going(self.run.clip_frames, whole_clip(self.run.clip_frames))

    def cuts(self, most: int) -> Iterator[tuple[tuple[int, ...], int]]:
        """Chunk lengths for every number of leading real frames that there may be, and that number: 0 where worlds begin from nothing."""
        real = self.run.beginning == "real frames"
        for context in (context_choices(self.run.clip_frames, self.run.chunk_frames, most) if real else ()) or (0,):
            yield chunk_lengths(self.frames, self.run.chunk_frames, context), context

    @property
    def memory(self) -> PolicyConfig:
        """That of its chunks."""
        return self.run.memory_of(self.stage)

    def halves(self, lengths: tuple[int, ...]) -> tuple[Going, Going]:
        """The clean half, and the noisy half's last chunks that fit into a clip."""
        first = next(start for start in accumulate(lengths, initial=0) if start >= self.frames - self.run.clip_frames)
        reaches = [_reach(self.memory, lengths, start, self.config.grid.tokens, self.cut.attention) for start in (0, first)]
        return replace(self.going(self.frames, reaches[0]), serves="memory"), self.going(self.frames - first, reaches[1])

    def cached(self) -> int:
        """Numbers in the cache of a rollout."""
        spec = self.config.cache(for_frames(self.memory, self.frames), self.run.chunk_frames, self.cut.clips)
        return sum(part.bytes() for part in spec.parts) // 4

    def rollout(self, stage: MatchingStage, lengths: tuple[int, ...], context: int) -> tuple[Going, ...]:
        """Every chunk's denoising passes, as many as an exit step asks for on average, and its commit; the last chunk has none. Like passes
        are one."""
        steps = {True: (stage.first_chunk_steps + 1) / 2, False: (stage.student_steps + 1) / 2}
        counts: dict[Going, float] = defaultdict(float)
        for index, chunk in enumerate(_sources(self.memory, lengths)):
            length, reads = chunk.chunk.length, reads_of(chunk)
            passed = replace(self.going(length, Reach(length * reads)), told="read")
            if index >= context:
                counts[passed] += steps[index == context]
            if index < len(lengths) - 1:
                counts[replace(passed, serves="cache")] += 1
        return tuple(replace(going, passes=count) for going, count in counts.items())


@lru_cache(maxsize=256)
def _sources(memory: PolicyConfig, lengths: tuple[int, ...]) -> tuple[ChunkSources, ...]:
    return layout(integer_base(memory), lengths)  # where content decides, as many frames as the policy that stands in for it


@lru_cache(maxsize=256)
def _reach(memory: PolicyConfig, lengths: tuple[int, ...], first: int, tokens: int, attention: str) -> Reach:
    """How the chunks from frame `first` on attend."""
    late = tuple(chunk for chunk in _sources(memory, lengths) if chunk.chunk.start >= first)
    return gathered(late, tokens) if attention == "gathered" else masked(late)
