"""Wan 2.1 (arXiv 2503.20314) at its two sizes, as a chain to frame-wise few-step students (Causal Forcing++, 2605.15141).

The bidirectional teacher is the published text-to-video model, brought in by `mutoscope import`. The figures of training are those of the
published fine-tunings. Pictures may have any size that divides by 16, chunks any length: change them in the recipe.
"""

from mutoscope.memory.policy import Window
from mutoscope.models.wan_config import WanCodecConfig
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


def wan_14b() -> RunConfig:
    """Wan2.1-T2V-14B."""
    return _wan("wan-14b", ModelConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, patch=2, freq_dim=256, text_dim=4096))


def wan_2_1(height: int, width: int) -> WanCodecConfig:
    """The published video autoencoder for pictures of a size: stride 8, one frame for 4 pixel frames, 16 channels."""
    return WanCodecConfig(
        height, width, base_dim=96, z_dim=16, dim_mult=(1, 2, 4, 4), num_res_blocks=2, temporal_downsample=(False, True, True),
        latents_mean=(
            -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
            0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
        ),
        latents_std=(
            2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
            3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
        ),
    )  # fmt: skip


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
    )


def _update(updates: int, average: float) -> UpdateConfig:
    return UpdateConfig(
        updates, 64, 2e-6, accumulate=8, betas=(0.0, 0.999), warmup=0, cooldown=0.0, clip_norm=10.0, average=average, save_every=200
    )
