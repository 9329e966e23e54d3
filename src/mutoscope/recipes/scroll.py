"""`scroll`: the whole chain in minutes on two CPU cores, with exact ground truth."""

from dataclasses import replace
from typing import Literal

from mutoscope.memory.policy import Window
from mutoscope.train.config import (
    AutoregressiveStage,
    BidirectionalStage,
    CodecStage,
    ConsistencyStage,
    DataConfig,
    MatchingStage,
    ModelConfig,
    OdeStage,
    RunConfig,
    StageConfig,
    UpdateConfig,
)


def scroll() -> RunConfig:
    """Frame-wise: window of 20 frames, so that 16 moves stay within memory."""
    return RunConfig(
        name="scroll",
        data=DataConfig("scroll", 32, 32, frame_skip=1, episodes=400, frames_per_episode=128, held_out_episodes=40, policy="hold-briefly"),
        model=ModelConfig(dim=96, ffn_dim=384, num_heads=3, num_layers=4, travel=True),
        memory=Window(20),
        chunk_frames=1,
        clip_frames=22,
        shift=3.0,
        stages=_stages(500, {2: 900, 1: 400, 4: 150}, "shared"),
    )


def scroll_chunk() -> RunConfig:
    """Chunk-wise: three frames at a time."""
    stages = _stages(700, {2: 800, 1: 600, 4: 400}, "own")
    return replace(scroll(), name="scroll-chunk", chunk_frames=3, memory=Window(21), stages=stages)


def scroll_smoke() -> RunConfig:
    """Every stage for a handful of updates: proves that the chain runs, learns nothing."""
    base, update = scroll(), UpdateConfig(4, 4, 1e-3, warmup=1, save_every=2, log_every=1)
    stages: tuple[StageConfig, ...] = (
        CodecStage("codec", update, latent_channels=6, widths=(8, 8, 8), blocks=1),
        BidirectionalStage("bidirectional", update),
        AutoregressiveStage("autoregressive", "bidirectional", update),
        OdeStage("ode", "autoregressive", update, trajectories=8, solver_steps=4, student_steps=2),
        ConsistencyStage("consistency", "autoregressive", update, grid_steps=8),
        MatchingStage("matching-2", "consistency", "bidirectional", update, student_steps=2, student_every=2, average_from=0),
    )
    data = DataConfig("scroll", 32, 32, frame_skip=1, episodes=6, frames_per_episode=24, held_out_episodes=4)
    model = ModelConfig(dim=32, ffn_dim=64, num_heads=2, num_layers=2, freq_dim=32)
    return replace(base, name="scroll-smoke", data=data, model=model, memory=Window(4), clip_frames=7, stages=stages)


def _stages(consistency: int, matching: dict[int, int], rollouts: Literal["own", "shared"]) -> tuple[StageConfig, ...]:
    """Updates of the consistency stage, those of matching by the number of steps, and whose rollouts its turns take."""
    return (
        CodecStage("codec", UpdateConfig(600, 32, 1e-3, clip_norm=0.3, average=0.99), latent_channels=8, widths=(24, 32, 48), blocks=1),
        BidirectionalStage("bidirectional", UpdateConfig(800, 8, 1e-3, average=0.99)),
        AutoregressiveStage("autoregressive", "bidirectional", UpdateConfig(1600, 8, 1e-3, average=0.995, save_every=400), weight="none"),
        ConsistencyStage("consistency", "autoregressive", UpdateConfig(consistency, 8, 2e-4, average=0.99), guidance=1.0),
        *(
            MatchingStage(
                f"matching-{steps}",
                "consistency",
                "bidirectional",
                UpdateConfig(updates, 8, 1e-4, average=0.98),
                student_steps=steps,
                critic_learning_rate=3e-4,
                student_every=2,
                average_from=10,
                rollouts=rollouts,
            )
            for steps, updates in matching.items()
        ),
    )
