"""Wan 2.1 (arXiv 2503.20314) at its two sizes, as a chain to frame-wise few-step students (Causal Forcing++, 2605.15141).

The bidirectional teacher is the published text-to-video model, brought in by `mutoscope import`. The figures of training are those of the
published fine-tunings. Pictures may have any size that divides by 16, chunks any length: change them in the recipe.
"""

from dataclasses import replace

from mutoscope.memory.policy import Window
from mutoscope.models.camera_config import CameraConfig
from mutoscope.models.text_config import TextConfig
from mutoscope.models.wan_config import wan_2_1
from mutoscope.train.config import (
    AutoregressiveStage,
    ConsistencyStage,
    DataConfig,
    MatchingStage,
    ModelConfig,
    PublishedStage,
    RunConfig,
    UpdateConfig,
)


def wan_1_3b() -> RunConfig:
    """Wan2.1-T2V-1.3B."""
    return _wan("wan-1.3b", ModelConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, patch=2, freq_dim=256, text_dim=4096))


def wan_1_3b_camera() -> RunConfig:
    """Wan2.1-T2V-1.3B with minWM's camera branch (arXiv 2605.30263): its chunks of 4 frames, clips and window of 20."""
    plain = wan_1_3b()
    model = replace(plain.model, camera=CameraConfig())
    return replace(plain, name="wan-1.3b-camera", model=model, memory=Window(20), chunk_frames=4, clip_frames=20)


def wan_14b() -> RunConfig:
    """Wan2.1-T2V-14B."""
    return _wan("wan-14b", ModelConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, patch=2, freq_dim=256, text_dim=4096))


def _wan(name: str, model: ModelConfig) -> RunConfig:
    codec = wan_2_1(480, 832)
    return RunConfig(
        name=name,
        data=DataConfig("clips", codec.height, codec.width, frame_skip=1, episodes=6000, frames_per_episode=81, held_out_episodes=60),
        model=model,
        memory=Window(21),
        chunk_frames=1,
        clip_frames=21,
        shift=5.0,
        stages=(
            PublishedStage("bidirectional"),
            AutoregressiveStage("autoregressive", "bidirectional", _update(10_000, 0.99)),
            ConsistencyStage("consistency", "autoregressive", _update(5_000, 0.99), guidance=3.0),
            *(
                MatchingStage(
                    f"matching-{steps}",
                    "consistency",
                    "bidirectional",
                    _update(1_000, 0.99),
                    student_steps=steps,
                    critic_learning_rate=4e-7,
                    guidance=4.0,
                    average_from=200,
                    max_context=1,
                )
                for steps in (2, 1, 4)
            ),
        ),
        precision="bf16",
        codec=codec,
        beginning="nothing",
        text=TextConfig("umt5", 512),
    )


def _update(updates: int, average: float) -> UpdateConfig:
    return UpdateConfig(
        updates, 64, 2e-6, accumulate=8, betas=(0.0, 0.999), warmup=0, cooldown=0.0, clip_norm=10.0, average=average, save_every=200
    )
