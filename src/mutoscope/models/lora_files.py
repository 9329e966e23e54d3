"""An adapter written for other software, as Wan LoRA files in diffusers' names.

    pytorch_lora_weights.safetensors                            diffusers: `pipeline.load_lora_weights(folder)`
    peft/adapter_config.json, peft/adapter_model.safetensors    peft: `PeftModel.from_pretrained(transformer, folder / "peft")`

In the files alpha is the rank: the scale alpha / rank is multiplied into B, so that a reader that asks for no alpha is right too.
"""

from pathlib import Path

from torch import Tensor

from mutoscope.core.errors import CheckpointError
from mutoscope.core.files import write_folder, write_json
from mutoscope.models.checkpoint import load_adapter, read_manifest
from mutoscope.models.lora import FACTORS, Adapter
from mutoscope.models.wan_keys import to_diffusers
from mutoscope.models.wan_weights import sizes_of, write_tensors

DIFFUSERS_PREFIX, PEFT_PREFIX = "transformer.", "base_model.model."


def export_adapter(source: Path, target: Path) -> int:
    """Write the adapter of a checkpoint folder for diffusers and for peft; returns how many layers it is on."""
    manifest, adapter = read_manifest(source), load_adapter(Path(source))
    if adapter is None or manifest.model is None:
        raise CheckpointError(f"{source} has no adapter; stages have one whose update.trains is a LoraConfig. Export its weights instead")
    sizes_of(manifest.model)
    if manifest.model.camera is not None:
        raise CheckpointError(
            f"{source} has a camera branch, which no model has that diffusers or peft would put this adapter on; export the weights instead"
        )
    tensors = wan_factors(adapter)

    def write(folder: Path) -> None:
        write_tensors(folder / "pytorch_lora_weights.safetensors", {DIFFUSERS_PREFIX + name: value for name, value in tensors.items()})
        (folder / "peft").mkdir()
        write_tensors(folder / "peft" / "adapter_model.safetensors", {PEFT_PREFIX + name: value for name, value in tensors.items()})
        write_json(folder / "peft" / "adapter_config.json", peft_config(adapter, tensors))

    write_folder(target, write)
    return len(tensors) // len(FACTORS)


def wan_factors(adapter: Adapter) -> dict[str, Tensor]:
    """`blocks.0.attn1.to_q.lora_A.weight` and its like, the scale in B."""
    if adapter.config.whole:
        whole = ", ".join(adapter.config.whole)
        raise CheckpointError(
            f"{whole} learnt whole beside this adapter, and adapter files have no place for that; export the weights instead"
        )
    tensors = {}
    for name, value in adapter.tensors.items():
        layer, factor, _ = name.rsplit(".", 2)
        theirs = to_diffusers(f"{layer}.weight").removesuffix(".weight")
        tensors[f"{theirs}.{factor}.weight"] = value * adapter.config.scale if factor == "lora_B" else value
    return tensors


def peft_config(adapter: Adapter, tensors: dict[str, Tensor]) -> dict[str, object]:
    """What peft asks for: the layers by their whole names, and alpha as in the files."""
    rank = adapter.config.rank
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": sorted({name.rsplit(".", 2)[0] for name in tensors}),
    }
