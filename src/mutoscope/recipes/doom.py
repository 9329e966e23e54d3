"""Doom, in three rungs: one room, one wing, all nine rooms. The same chain; data, size and updates differ."""

from dataclasses import replace

from mutoscope.memory.policy import Window
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


def doom_basic() -> RunConfig:
    """Rung (a): the room of the scenario `basic`, 64x48, sized for two CPU cores and an afternoon."""
    matching = UpdateConfig(100, 8, 2e-5, average=0.95, save_every=50)
    return RunConfig(
        name="doom-basic",
        data=DataConfig("doom-basic", 48, 64, frame_skip=2, episodes=200, frames_per_episode=300, held_out_episodes=40),
        model=ModelConfig(dim=128, ffn_dim=512, num_heads=4, num_layers=6),
        memory=Window(8),
        chunk_frames=1,
        clip_frames=12,
        shift=2.0,
        stages=(
            CodecStage(
                "codec",
                UpdateConfig(2500, 32, 1e-3, clip_norm=0.3, warmup=100, average=0.99, save_every=500),
                latent_channels=16,
                widths=(32, 64, 96),
            ),
            BidirectionalStage("bidirectional", UpdateConfig(1200, 8, 1e-3, average=0.99)),
            AutoregressiveStage("autoregressive", "bidirectional", UpdateConfig(1800, 8, 7e-4, average=0.99)),
            ConsistencyStage("consistency", "autoregressive", UpdateConfig(250, 8, 1e-4, average=0.99), guidance=1.5),
            *(MatchingStage(f"matching-{steps}", "consistency", "bidirectional", matching, student_steps=steps) for steps in (2, 1, 4)),
        ),
    )


def doom_cover() -> RunConfig:
    """Rung (a) again: the plain room of the scenario `take_cover`, whose flat floor and large bricks a small model learns soonest."""
    base = doom_basic()
    return replace(
        base,
        name="doom-cover",
        data=replace(base.data, world="doom-cover", episodes=300),
        model=replace(base.model, travel=True),
        stages=(
            CodecStage(
                "codec",
                UpdateConfig(8000, 32, 1e-3, clip_norm=0.3, warmup=100, average=0.99, save_every=500),
                latent_channels=16,
                widths=(32, 64, 96),
            ),
            BidirectionalStage("bidirectional", UpdateConfig(5000, 8, 1e-3, average=0.995, save_every=500)),
            AutoregressiveStage("autoregressive", "bidirectional", UpdateConfig(4500, 8, 1e-3, average=0.995, save_every=500)),
            ConsistencyStage("consistency", "autoregressive", UpdateConfig(500, 8, 1e-4, average=0.99), guidance=1.5),
            *(
                MatchingStage(
                    f"matching-{steps}",
                    "consistency",
                    "bidirectional",
                    UpdateConfig(updates, 8, 3e-5, average=0.98, save_every=100),
                    student_steps=steps,
                    critic_learning_rate=2e-4,
                    student_every=3,
                    guidance=2.0,
                    average_from=10,
                )
                for steps, updates in ((2, 600), (1, 150), (4, 150))
            ),
        ),
    )


def doom_wing() -> RunConfig:
    """Rung (b): one wing of `my_way_home`, 64x48; one GPU, or days on a CPU."""
    return _maze("doom-wing", "doom-wing", 48, 64, ModelConfig(dim=256, ffn_dim=1024, num_heads=4, num_layers=8, travel=True))


def doom() -> RunConfig:
    """Rung (c): all nine rooms of `my_way_home` at 128x96; one GPU."""
    return _maze("doom", "doom", 96, 128, ModelConfig(dim=384, ffn_dim=1536, num_heads=6, num_layers=10, patch=2, travel=True))


def _maze(name: str, world: str, height: int, width: int, model: ModelConfig) -> RunConfig:
    return RunConfig(
        name=name,
        data=DataConfig(world, height, width, frame_skip=2, episodes=600, frames_per_episode=500, held_out_episodes=60),
        model=model,
        memory=Window(16),
        chunk_frames=1,
        clip_frames=24,
        shift=3.0,
        stages=(
            CodecStage(
                "codec",
                UpdateConfig(20_000, 64, 7e-4, clip_norm=0.3, warmup=500, average=0.999, save_every=2000),
                latent_channels=24,
                widths=(48, 96, 128),
            ),
            BidirectionalStage("bidirectional", UpdateConfig(30_000, 32, 5e-4, average=0.999, save_every=1000)),
            AutoregressiveStage("autoregressive", "bidirectional", UpdateConfig(60_000, 32, 5e-4, average=0.999, save_every=1000)),
            ConsistencyStage("consistency", "autoregressive", UpdateConfig(8_000, 32, 1e-4, average=0.99, save_every=1000), guidance=1.5),
            *(
                MatchingStage(
                    f"matching-{steps}", "consistency", "bidirectional", UpdateConfig(2_000, 32, 2e-5, average=0.99), student_steps=steps
                )
                for steps in (2, 1, 4)
            ),
        ),
    )
