"""What Wan 2.1's sizes take by arithmetic alone: operations of a pass and of the codec, bytes of weights, cache and decoding.

    python benchmarks/wan_arithmetic.py --output results/wan_arithmetic.json

Nothing is allocated and nothing is timed: operations are counted by formula (models/arithmetic.py, held against torch's own counter in
the tests) and, for codecs, by torch's counter on the meta device; bytes of decoding by models/live_bytes.py.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from mutoscope.commands.arithmetic import Step, arithmetic
from mutoscope.commands.streaming import PRECISIONS
from mutoscope.core.files import write_json
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.memory.policy import Window
from mutoscope.models.codec import Codec
from mutoscope.models.live_bytes import decoding_bytes
from mutoscope.models.tiled_codec import TiledCodec, Tiles
from mutoscope.models.tiny_codec import TinyCodec, taew_2_1
from mutoscope.models.transformer import VideoTransformer
from mutoscope.models.wan_codec import wan_codec
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.recipes import recipe
from mutoscope.train.build import transformer_config

RECIPES = ("wan-1.3b", "wan-14b")
WINDOW, TEXT, STEPS = 21, 512, 2
TILES = (Tiles(32, 32, 8), Tiles(16, 16, 4))


def decoding_flops(codec: Codec) -> float:
    """Operations of decoding one latent frame of a stream that has begun; the codec lies on the meta device."""
    latent, state = codec.latent, codec.start_decoding(1)
    frame = torch.empty(1, 1, latent.channels, latent.height, latent.width, device="meta", dtype=PRECISIONS["bf16"])
    for _ in range(2):
        _, state = codec.decode_next(frame, state)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        codec.decode_next(frame, state)
    return float(counter.get_total_flops())


def of_recipe(name: str, codec_flops: float) -> dict:
    """A frame-wise stream of a recipe's model at the size of its pictures, two steps and a commit."""
    run, dtype = recipe(name), PRECISIONS["bf16"]
    assert isinstance(run.codec, WanCodecConfig)
    config = transformer_config(run.model, run.codec, 0, None)
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in VideoTransformer(config).parameters()) * dtype.itemsize
    cache = config.cache(Window(WINDOW), 1).bytes(dtype)
    figures = arithmetic(config, Step(1, 1, WINDOW, TEXT), STEPS, weights=weights, cache=cache, codec=codec_flops)
    return {"height": run.data.height, "width": run.data.width, "prompt_tokens": TEXT, "steps": STEPS, **figures}


def decoders(height: int, width: int) -> list[dict]:
    """Wan's decoder, whole and in tiles, and the tiny one: weights, state and working bytes of one player in bfloat16."""
    config = recipe(RECIPES[0]).codec
    assert isinstance(config, WanCodecConfig) and (config.height, config.width) == (height, width)
    whole = wan_codec(config).to(PRECISIONS["bf16"])
    with torch.device("meta"):
        tiny = TinyCodec(taew_2_1(height, width)).to(PRECISIONS["bf16"])
    rows = [{"decoder": "Wan's VAE, untiled", "tiles": 1, **asdict(decoding_bytes(whole, whole))}]
    for tiles in TILES:
        tiled = TiledCodec(whole, tiles, keep="host")
        label = f"tiles of {tiles.height}x{tiles.width} cells, overlap {tiles.overlap}, states on the host"
        rows.append({"decoder": label, "tiles": tiled.num_tiles, **asdict(decoding_bytes(tiled.tile, whole))})
    return [*rows, {"decoder": "taew2_1", "tiles": 1, **asdict(decoding_bytes(tiny, tiny)), "decoding_flops": decoding_flops(tiny)}]


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    data = recipe(RECIPES[0]).data
    with Progress(2 + len(RECIPES), "counting") as bar:
        rows = decoders(data.height, data.width)
        bar.advance()
        config = recipe(RECIPES[0]).codec
        assert isinstance(config, WanCodecConfig)
        flops = decoding_flops(wan_codec(config).to(PRECISIONS["bf16"]))
        bar.advance()
        streams = {}
        for name in RECIPES:
            streams[name] = of_recipe(name, flops)
            bar.advance()
    write_json(options.output, {"provenance": provenance(), "window": WINDOW, "streams": streams, "decoders": rows})
    print(f"{options.output}: written")


if __name__ == "__main__":
    main()
