"""Codec against a linear patch codec of the same latent size, on held-out frames: PSNR, and time to decode one frame.

    python benchmarks/codec_quality.py runs/doom-basic/codec/checkpoint data/train data/held-out --output results/codec.json

The linear codec is the best there is: principal components of the training frames' patches, as many as latent channels.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from mutoscope.core.files import write_json
from mutoscope.core.provenance import provenance
from mutoscope.data.batches import ClipSampler
from mutoscope.data.clips import open_dataset
from mutoscope.models.checkpoint import load_codec
from mutoscope.models.codec import ConvCodec, to_frames, to_model_pixels

TRAIN_FRAMES, HELD_OUT_FRAMES, DECODES = 4096, 2048, 200


def frames_of(path: Path, count: int, seed: int) -> np.ndarray:
    """Random frames uint8 `[count, H, W, 3]`."""
    sampler = ClipSampler(open_dataset(path), clip_frames=1, batch_size=count, seed=seed, arrays=("frames",))
    return sampler.batch(0).arrays["frames"][:, 0]


def patches(frames: np.ndarray, size: int) -> np.ndarray:
    """`[N, H, W, 3]` -> `[N, cells, size * size * 3]` float64."""
    count, height, width, _ = frames.shape
    cut = frames.reshape(count, height // size, size, width // size, size, 3).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(count, -1, size * size * 3).astype(np.float64)


def linear_reconstruction(train: np.ndarray, held_out: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Held-out patches through the first principal components of the training patches, rounded and clipped to pixels."""
    rows = patches(train, size).reshape(-1, size * size * 3)
    mean = rows.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(rows.T))
    basis = vectors[:, ::-1][:, :channels]
    target = patches(held_out, size) - mean
    return (target @ basis @ basis.T + mean).round().clip(0, 255)


def psnr_per_frame(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """10 log10(255^2 / mean squared error) of every frame."""
    axes = tuple(range(1, real.ndim))
    return 10 * np.log10(255.0**2 / np.maximum(((real.astype(np.float64) - made) ** 2).mean(axis=axes), 1e-9))


@torch.no_grad()
def reconstruct(codec: ConvCodec, frames: np.ndarray) -> np.ndarray:
    """Frames through the codec, as uint8."""
    parts = [
        to_frames(codec.decode(codec.encode(to_model_pixels(torch.from_numpy(part))[:, None])))[:, 0].numpy()
        for part in np.split(frames, 16)
    ]
    return np.concatenate(parts)


@torch.no_grad()
def decode_milliseconds(codec: ConvCodec) -> np.ndarray:
    """Times to decode one frame, after a warm-up."""
    latents = torch.zeros(1, 1, codec.latent.channels, codec.latent.height, codec.latent.width)
    times = []
    for _ in range(DECODES):
        began = time.perf_counter()
        codec.decode(latents)
        times.append(1000 * (time.perf_counter() - began))
    return np.array(times[DECODES // 4 :])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    manifest, codec = load_codec(options.checkpoint)
    train, held_out = frames_of(options.train, TRAIN_FRAMES, 0), frames_of(options.held_out, HELD_OUT_FRAMES, 1)
    learned = psnr_per_frame(held_out, reconstruct(codec, held_out))
    size = codec.spatial_stride
    linear = psnr_per_frame(patches(held_out, size), linear_reconstruction(train, held_out, size, codec.latent.channels))
    times = decode_milliseconds(codec)
    figures = {
        "provenance": provenance(),
        "world": manifest.world.name,
        "held_out_frames": HELD_OUT_FRAMES,
        "floats_per_frame": codec.latent.channels * codec.latent.height * codec.latent.width,
        "psnr_db": {"mean": learned.mean(), "standard_error": learned.std() / len(learned) ** 0.5},
        "linear_psnr_db": {"mean": linear.mean(), "standard_error": linear.std() / len(linear) ** 0.5},
        "advantage_db": {"mean": (learned - linear).mean(), "standard_error": (learned - linear).std() / len(learned) ** 0.5},
        "decode_ms": {"p50": float(np.median(times)), "p95": float(np.percentile(times, 95)), "threads": torch.get_num_threads()},
    }
    write_json(options.output, figures)
    print({name: figures[name] for name in ("psnr_db", "linear_psnr_db", "advantage_db", "decode_ms")})


if __name__ == "__main__":
    main()
