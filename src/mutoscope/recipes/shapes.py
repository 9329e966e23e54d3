"""`shapes`: a small world that is told in words what to show, on one thread of a CPU."""

from dataclasses import replace

from mutoscope.memory.policy import Window
from mutoscope.models.text_config import TextConfig
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

# The world pauses for four frames: with four past frames in memory, nothing but the prompt says what appears next.
WINDOW = 5
STEPS = (4, 2, 1)


def shapes() -> RunConfig:
    """Frame-wise; prompts of at most eight tokens from the small sentence encoder."""
    return RunConfig(
        name="shapes",
        data=DataConfig("shapes", 24, 24, frame_skip=1, episodes=480, frames_per_episode=33, held_out_episodes=24),
        model=ModelConfig(dim=96, ffn_dim=384, num_heads=3, num_layers=4, patch=2, text_dim=384),
        memory=Window(WINDOW),
        chunk_frames=1,
        clip_frames=9,
        shift=3.0,
        text=TextConfig("minilm", tokens=8),
        stages=_stages(),
    )


def shapes_smoke() -> RunConfig:
    """Every stage of the chain for two updates: proves that it runs, learns nothing."""
    base, update = shapes(), UpdateConfig(2, 2, 1e-3, warmup=1, save_every=2, log_every=1)
    return replace(
        base,
        name="shapes-smoke",
        data=DataConfig("shapes", 24, 24, frame_skip=1, episodes=4, frames_per_episode=17, held_out_episodes=2),
        model=ModelConfig(dim=24, ffn_dim=32, num_heads=1, num_layers=1, patch=2, freq_dim=16, text_dim=384),
        clip_frames=7,
        stages=tuple(replace(stage, update=update) for stage in _stages()),
    )


def _stages() -> tuple[CodecStage | BidirectionalStage | AutoregressiveStage | ConsistencyStage | MatchingStage, ...]:
    matching = UpdateConfig(160, 16, 1e-4, average=0.95, save_every=40)
    return (
        CodecStage("codec", UpdateConfig(1500, 32, 1e-3, clip_norm=0.3, average=0.99), latent_channels=6, widths=(24, 32), blocks=1),
        BidirectionalStage("bidirectional", UpdateConfig(7000, 16, 1e-3, average=0.99, save_every=500)),
        AutoregressiveStage("autoregressive", "bidirectional", UpdateConfig(4000, 16, 1e-3, average=0.99, save_every=500), weight="none"),
        ConsistencyStage("consistency", "autoregressive", UpdateConfig(1000, 16, 3e-4, average=0.99, save_every=100), guidance=1.5),
        *(
            MatchingStage(
                f"matching-{steps}",
                "consistency",
                "bidirectional",
                matching,
                student_steps=steps,
                critic_learning_rate=3e-4,
                student_every=2,
                guidance=1.5,
                average_from=10,
                rollouts="shared",
            )
            for steps in STEPS
        ),
    )
