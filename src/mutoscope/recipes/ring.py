"""`ring`: a panorama around the viewer, random per episode. What left the window and comes back can be known by memory alone."""

from dataclasses import replace

from mutoscope.memory.kinds import FastWeights
from mutoscope.memory.policy import PolicyConfig, Stateful, Window
from mutoscope.train.config import (
    AutoregressiveStage,
    BidirectionalStage,
    CodecStage,
    ConsistencyStage,
    DataConfig,
    MatchingStage,
    ModelConfig,
    RunConfig,
    UpdateConfig,
)

WINDOW = 8


def ring() -> RunConfig:
    """Fast weights beside a window of an eighth of the clip."""
    return ring_with(Stateful(Window(WINDOW), FastWeights("mlp", 1)))


def ring_with(memory: PolicyConfig, seed: int = 0) -> RunConfig:
    """The same chain under another memory: one row of four tiles, four tokens a frame, clips of 64 frames, one head."""
    return RunConfig(
        name="ring",
        data=DataConfig("ring", 8, 32, frame_skip=1, episodes=400, frames_per_episode=128, held_out_episodes=16),
        model=ModelConfig(dim=64, ffn_dim=256, num_heads=1, num_layers=3, travel=True),
        memory=memory,
        chunk_frames=1,
        clip_frames=64,
        shift=3.0,
        stages=_stages(),
        seed=seed,
    )


def ring_smoke(memory: PolicyConfig, seed: int = 0) -> RunConfig:
    """Every stage of the chain for two updates: proves that it runs, learns nothing."""
    base, update = ring_with(memory, seed), UpdateConfig(2, 2, 1e-3, warmup=1, save_every=2, log_every=1)
    return replace(
        base,
        data=DataConfig("ring", 8, 32, frame_skip=1, episodes=4, frames_per_episode=24, held_out_episodes=2),
        model=replace(base.model, dim=24, ffn_dim=32, num_layers=1, freq_dim=16),
        clip_frames=16,
        stages=tuple(replace(stage, update=update) for stage in _stages()),
    )


def _stages() -> tuple[CodecStage | BidirectionalStage | AutoregressiveStage | ConsistencyStage | MatchingStage, ...]:
    matching = UpdateConfig(90, 8, 1e-4, average=0.95, save_every=45)
    return (
        CodecStage("codec", UpdateConfig(600, 32, 1e-3, clip_norm=0.3, average=0.99), latent_channels=8, widths=(16, 24, 32), blocks=1),
        BidirectionalStage("bidirectional", UpdateConfig(900, 8, 1e-3, average=0.99)),
        AutoregressiveStage("autoregressive", "bidirectional", UpdateConfig(700, 8, 1e-3, average=0.99, save_every=100), weight="none"),
        ConsistencyStage("consistency", "autoregressive", UpdateConfig(200, 8, 2e-4, average=0.99), guidance=1.0),
        *(
            MatchingStage(
                f"matching-{steps}",
                "consistency",
                "bidirectional",
                matching,
                student_steps=steps,
                critic_learning_rate=3e-4,
                student_every=3,
                average_from=5,
                rollouts="shared",
            )
            for steps in (4, 2, 1)
        ),
    )
