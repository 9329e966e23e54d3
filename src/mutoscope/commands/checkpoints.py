"""Which checkpoint, and how it is played: what `play`, `generate` and `bench` have in common."""

import re
from dataclasses import fields, replace
from pathlib import Path

from mutoscope.core.errors import CheckpointError, ConfigError, choose
from mutoscope.memory.heads import HeadTable, HeadWise
from mutoscope.memory.kinds import STATES, FastWeights, StateConfig, state_name
from mutoscope.memory.policy import (
    POLICIES,
    CacheConfig,
    ContentConfig,
    EmaSink,
    Full,
    PolicyConfig,
    Stateful,
    WindowedConfig,
    policy_by_name,
    policy_name,
)
from mutoscope.models.checkpoint import CheckpointManifest, read_manifest
from mutoscope.rollout.session import SessionConfig, default_config, with_steps

BUNDLED = Path(__file__).resolve().parent.parent / "bundled"
MANIFEST = "manifest.json"
LAST_PASS = "last-pass"
NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
WORD = re.compile(r"[a-z]+")
HEADS = re.compile(r"(/[0-9]{1,4}(-[0-9]{1,4})*)+")
Size = int | float | str | HeadTable
POLICY_HELP = (
    "write it like window=16, sink=2,window=14, full=200 or retrieval=8,window=12,by=place; a learned memory after a plus: "
    "window=8+linear, window=8+fast-swiglu=2"
)


def bundled_names() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.parent.relative_to(BUNDLED).as_posix() for path in BUNDLED.rglob(MANIFEST))


def bundled_first() -> Path:
    """The bundled checkpoint that is played when none is named: a matching student, nearest to two steps."""
    names = bundled_names()
    if not names:
        raise CheckpointError("no world is bundled with this version; train one (mutoscope train scroll) and give its checkpoint")
    return min((BUNDLED / name for name in names), key=lambda path: _distance_from_default(read_manifest(path)))


def _distance_from_default(manifest: CheckpointManifest) -> tuple[bool, int]:
    return manifest.stage != "matching", abs(manifest.student_steps - 2)


def find_checkpoint(name: str) -> Path:
    """A checkpoint folder from its path, from the folder of its stage in a run, or from a bundled name."""
    candidates = (Path(name), Path(name) / "checkpoint", BUNDLED / name)
    for candidate in candidates:
        if (candidate / MANIFEST).is_file():
            return candidate
    inside = sorted(path.parent for path in Path(name).glob(f"*/checkpoint/{MANIFEST}")) if Path(name).is_dir() else []
    if inside:
        raise CheckpointError(f"{name} holds several stages; give one of: {', '.join(str(path.parent) for path in inside)}")
    known = ", ".join(bundled_names()) or "none"
    raise CheckpointError(f"'{name}' is no checkpoint: neither a folder with {MANIFEST}, nor a bundled world (bundled: {known})")


def parse_policy(text: str) -> PolicyConfig:
    """`window=16`, `sink=2,window=14`, `full=200` or `window=8+linear` -> a memory policy; sizes are frames."""
    frames, _, state = text.partition("+")
    cache = _parse_cache(frames)
    if not state:
        return cache
    if isinstance(cache, (Full, EmaSink)):
        raise ConfigError(f"memory policy '{text}': '{frames}' gives no frame up that a state could take in; give window or sink instead")
    if isinstance(cache, ContentConfig):
        raise ConfigError(f"memory policy '{text}': no learned memory stands beside frames chosen by content; give window or sink instead")
    return Stateful(cache, _parse_state(state.strip()))


def _parse_state(text: str) -> StateConfig:
    """`linear`, `gated-delta`, `fast-mlp` or `fast-swiglu=4`, where the number is the hidden width in multiples of a head's channels.

    `linear,last-pass`: written from the last denoising pass in place of the commit.
    """
    text, comma, source = text.partition(",")
    if comma and source.strip() != LAST_PASS:
        raise ConfigError(f"learned memory '{text},{source}': only ',{LAST_PASS}' may follow its name and size")
    name, _, number = text.partition("=")
    state = choose(STATES, name, "learned memory")
    if comma:
        state = replace(state, written_from="last pass")
    if not number:
        return state
    if not isinstance(state, FastWeights) or not number.isdigit():
        raise ConfigError(f"learned memory '{text}': only fast weights have a size, a whole number, such as fast-swiglu=4")
    return replace(state, hidden=int(number))


def _parse_cache(text: str) -> CacheConfig | HeadWise:
    sizes = _parse_sizes(text)
    return _policy_of_sizes(next(iter(sizes)), sizes)


def named_policy(text: str, frames: int) -> PolicyConfig:
    """`sink` -> that policy with `frames` in all; `sink:sink=2,window=14` and what `parse_policy` reads -> with these sizes."""
    name, colon, sizes = text.partition(":")
    if colon:
        choose(POLICIES, name, "memory policy")
        return _policy_of_sizes(name, _parse_sizes(sizes))
    return parse_policy(text) if "=" in text else choose(POLICIES, text, "memory policy").of_frames(frames)


def _parse_sizes(text: str) -> dict[str, Size]:
    sizes: dict[str, Size] = {}
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        later = WORD.fullmatch(size) or HEADS.fullmatch(size)
        if not (NUMBER.fullmatch(size) or (later and sizes)) or name in sizes:
            raise ConfigError(f"memory policy '{text}': '{part.strip()}' is not a name and a number of frames; {POLICY_HELP}")
        sizes[name] = _read_size(size)
    return sizes


def _read_size(text: str) -> Size:
    """A number, a word, or `/0-2/1-3`: the heads of each layer."""
    if HEADS.fullmatch(text):
        return tuple(tuple(map(int, layer.split("-"))) for layer in text[1:].split("/"))
    return text if WORD.fullmatch(text) else float(text) if "." in text else int(text)


def _policy_of_sizes(kind: str, sizes: dict[str, Size]) -> CacheConfig | HeadWise:
    """The kind's own name stands for its first size: `full=200` are 200 frames, `ema-sink=3,window=6` three sinks."""
    first = fields(choose(POLICIES, kind, "memory policy"))[0].name
    return policy_by_name(kind, **{first if name == kind else name: size for name, size in sizes.items()})


def policy_text(policy: PolicyConfig) -> str:
    """The inverse of `parse_policy`."""
    if isinstance(policy, Stateful):
        size = f"={policy.state.hidden}" if isinstance(policy.state, FastWeights) else ""
        source = f",{LAST_PASS}" if policy.state.written_from == "last pass" else ""
        return f"{policy_text(policy.cache)}+{state_name(policy.state)}{size}{source}"
    first, *others = fields(policy)
    named = [(policy_name(policy), getattr(policy, first.name)), *((field.name, getattr(policy, field.name)) for field in others)]
    return ",".join(f"{name}={_write_size(size)}" for name, size in named if size != ())


def _write_size(size: Size) -> str:
    """The inverse of `_read_size`."""
    return "".join(f"/{'-'.join(map(str, layer))}" for layer in size) if isinstance(size, tuple) else str(size)


def beside_memory(policy: PolicyConfig, own: PolicyConfig) -> PolicyConfig:
    """A cache of frames for a checkpoint with a learned memory, which is part of its weights and stays, whatever cache stands beside it."""
    return Stateful(policy, own.state) if isinstance(own, Stateful) and isinstance(policy, WindowedConfig) else policy


def session_config(
    manifest: CheckpointManifest, *, steps: int | None, policy: str | None, seed: int, guidance: float = 1.0
) -> SessionConfig:
    """What the manifest recommends, with the steps and the memory policy that were asked for."""
    config = default_config(manifest)
    if steps is not None:
        config = with_steps(config, steps)
    if policy is not None:
        config = replace(config, policy=beside_memory(parse_policy(policy), config.policy))
    config.policy.capacity(manifest.chunk_frames)
    return replace(config, seed=seed, guidance=guidance)
