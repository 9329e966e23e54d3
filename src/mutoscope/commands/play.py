"""Play a learned world in the browser: WASD or arrows, several keys at once, touch works too.

Without a checkpoint it plays the bundled world. More than one checkpoint stand side by side under the same keys,
beside the real world where that can be run here. The server listens on this machine only, unless --host says otherwise.
A strip under each learned world shows what lies in every slot of its memory; --memory says which memory it begins with.
--image begins with pictures of your own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mutoscope.commands.loading_options import LoadingOptions

EXAMPLES = (
    "mutoscope play",
    "mutoscope play runs/doom-basic/matching-2",
    "mutoscope play runs/scroll/consistency runs/scroll/matching-2 --port 8080",
    "mutoscope play --memory sink",
    "mutoscope play --memory retrieval",
    "mutoscope play runs/doom-cover/matching-2 --memory window:window=16",
    "mutoscope play runs/wan-1.3b/matching-2 --prompts prompts --memory anchored --device cuda --precision bf16",
    "mutoscope play runs/wan-1.3b/matching-2 --prompts prompts --encoder Wan2.1-T2V-1.3B-Diffusers --device cuda --precision bf16",
    "mutoscope play runs/wan-1.3b/matching-2 --prompts prompts --device cuda --precision bf16 --decoder taew2_1.pth",
    "mutoscope play runs/wan-1.3b/matching-2 --prompts prompts --image street.png harbour.jpg --device cuda --precision bf16",
    "mutoscope play --host 0.0.0.0 --no-open",
)


@dataclass(frozen=True)
class Options:
    """What to play, and where the page is served."""

    checkpoints: tyro.conf.Positional[tuple[str, ...]] = ()
    """Checkpoint folders, stages' folders of a run, or bundled names; default: the bundled world."""
    memory: str = ""
    """Memory policy to begin with: window, sink, participative, retrieval, ..., with as many frames as the checkpoint's own, or with sizes,
    as in window:window=16, retrieval=4,window=8,by=place or full:full=200 ("full" ends when it is full); default: the checkpoint's own."""
    image: tuple[Path, ...] = ()
    """Pictures (PNG, JPEG, ...) to begin from, in place of the checkpoints' start clips; the page opens with the first of them."""
    fit: Literal["crop", "stretch"] = "crop"
    """How a picture of another shape becomes one of the world's: its middle, scaled, or all of it, stretched."""
    prompts: str = ""
    """Folder of prompts' embeddings, for worlds that are told in words what to show (mutoscope embed); default: the checkpoint's own."""
    encoder: str = ""
    """Text encoder for prompts that have no embedding yet: minilm, or Wan's folder (docs/text.md); default: none, so that only embedded
    prompts can be said. It stays loaded while the page is open."""
    encoder_device: str = "cpu"
    """Where the text encoder works: cpu, cuda, ..."""
    encoder_dtype: Literal["float32", "bfloat16"] = "float32"
    """Its type: Wan's encoder has 5.7e9 weights, 22.7 GB in float32 and 11.4 GB in bfloat16."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8765
    """Port to listen on."""
    open: bool = True
    """Open the page in a browser where there is a display."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""
    loading: tyro.conf.OmitArgPrefixes[LoadingOptions] = LoadingOptions()


def run(options: Options) -> int:
    """Fill the catalogue and serve it until Ctrl-C."""
    from mutoscope.commands.catalogue import build_catalogue
    from mutoscope.commands.loading import loading_of
    from mutoscope.commands.pictures import read_pictures
    from mutoscope.commands.spoken import Spoken
    from mutoscope.serve.app import serve

    loading = loading_of(options.device, options.loading)
    spoken = Spoken(options.prompts, options.encoder, options.encoder_device, options.encoder_dtype)
    pictures = read_pictures(options.image, options.fit)
    catalogue = build_catalogue(options.checkpoints, loading, options.memory, spoken, pictures)
    serve(catalogue, host=options.host, port=options.port, open_browser=options.open)
    return 0
