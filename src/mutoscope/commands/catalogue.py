"""What `mutoscope play` offers: the given or bundled checkpoints, and the real world beside them where it can run here."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import gymnasium
from safetensors import safe_open

from mutoscope.commands.checkpoints import (
    BUNDLED,
    beside_memory,
    bundled_first,
    bundled_names,
    find_checkpoint,
    named_policy,
    policy_text,
    session_config,
)
from mutoscope.commands.loading import Loading
from mutoscope.commands.pictures import Pictures
from mutoscope.commands.spoken import Spoken, open_voice
from mutoscope.core.errors import CheckpointError, ConfigError, MutoscopeError
from mutoscope.core.world import WorldSpec
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.gym import world_spec
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.choosing import Different, Merging, Nearness, Participative, Retrieval
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.ledger import layout
from mutoscope.memory.policy import PolicyConfig, SinkWindow, Stateful, Window, cache_of, integer_base
from mutoscope.models.checkpoint import Checkpoint, CheckpointManifest, load_starts, read_manifest
from mutoscope.rollout.session import Session, default_config
from mutoscope.serve.catalogue import Catalogue, PaneChoice, PaneOptions
from mutoscope.serve.sources import FROM_NOTHING, LearnedSource, PaneSource, RealSource, RealStart
from mutoscope.serve.wire import MAX_PANES, PaneRequest

PLAYABLE = ("autoregressive", "ode", "consistency", "matching")
FEW_STEPS = (2, 1, 4)
FRAME_SKIPS = (2, 1, 4, 3)
NOTHING_SPOKEN = Spoken()
NO_PICTURES = Pictures()


def build_catalogue(
    names: tuple[str, ...], loading: Loading, memory: str = "", spoken: Spoken = NOTHING_SPOKEN, pictures: Pictures = NO_PICTURES
) -> Catalogue:
    """The named checkpoints (default: the bundled ones) and the real world; the page opens the named ones and then the real one.

    Each learned world begins with the memory policy `memory`, where one is named; the page offers the others beside it. `spoken` says where
    worlds that are told in words what to show take their embeddings from. `pictures`, where there are any, stand in place of start clips.
    """
    paths = [find_checkpoint(name) for name in names] or playable_bundled()
    learned = [learned_choice(path, f"{number}", loading, memory, spoken, pictures) for number, path in enumerate(paths)]
    real = real_choices(learned[0], real_starts(paths[0], pictures))
    opened = (*learned[: max(1, len(names))], *real)[:MAX_PANES]
    return Catalogue((*learned, *real), tuple(PaneRequest(choice.id) for choice in opened))


def playable_bundled() -> list[Path]:
    """The bundled checkpoints of the default one's world, the default one first."""
    first = bundled_first()
    world = read_manifest(first).world
    others = [path for path in map(BUNDLED.joinpath, bundled_names()) if path != first]
    return [first, *(path for path in others if (manifest := read_manifest(path)).world == world and manifest.stage in PLAYABLE)]


def learned_choice(path: Path, number: str, loading: Loading, memory: str, spoken: Spoken, pictures: Pictures) -> PaneChoice:
    """A checkpoint with its step counts and memory policies; its weights are loaded once, when it is first played."""
    manifest = read_manifest(path)
    if manifest.stage not in PLAYABLE:
        raise CheckpointError(f"{path} is a '{manifest.stage}' checkpoint, which cannot be played; give one of: {', '.join(PLAYABLE)}")
    loading.check(path)

    @cache
    def checkpoint() -> Checkpoint:
        return pictures.before(loading.load(path))

    def make_source(options: PaneOptions) -> PaneSource:
        config = loading.config(session_config(manifest, steps=options.steps, policy=options.policy, seed=0))
        return LearnedSource(Session(checkpoint(), config), stride=checkpoint().codec.temporal_stride * manifest.chunk_frames)

    starts, opening = listed_starts(path, manifest, pictures)
    return PaneChoice(
        id=f"{number}-{manifest.stage}-{manifest.student_steps}",
        label=label(manifest),
        kind="learned",
        world=manifest.world,
        make_source=make_source,
        steps=offered_steps(manifest),
        policies=offered_policies(path, manifest, memory, pictures),
        starts=starts,
        note=f"recipe {manifest.recipe}, {manifest.updates} updates",
        prompts=None if manifest.text == "none" else open_voice(path, manifest, spoken).book(),
        opening=opening,
    )


def listed_starts(path: Path, manifest: CheckpointManifest, pictures: Pictures) -> tuple[tuple[str, ...], int | None]:
    """What a page lists as beginnings, and which of them it opens with: a picture, or nothing where worlds begin so, or one at random."""
    named = pictures.names or tuple(f"start {start}" for start in range(starts_shape(path)[0]))
    if manifest.beginning == "nothing" and named:
        return (FROM_NOTHING, *named), 1 if pictures.names else 0
    return named, 0 if pictures.names else None


def label(manifest: CheckpointManifest) -> str:
    """What the page calls a checkpoint: teachers are named as such, students by the steps they were trained for."""
    if manifest.stage == "autoregressive":
        return "teacher, truncated"
    return f"{manifest.stage} student, {manifest.student_steps} steps"


def offered_steps(manifest: CheckpointManifest) -> tuple[int, ...]:
    """Few steps, those that a student was trained for first; a teacher's many come last, for patience."""
    own = manifest.student_steps
    return (*FEW_STEPS, own) if manifest.stage == "autoregressive" else tuple(dict.fromkeys((own, *FEW_STEPS)))


def offered_policies(path: Path, manifest: CheckpointManifest, memory: str, pictures: Pictures = NO_PICTURES) -> tuple[str, ...]:
    """The policy that was asked for, if any; that of training; with as many slots half a window, a sink, and what chooses by content."""
    policy = default_config(manifest).policy
    offered: tuple[PolicyConfig, ...] = (policy,)
    frames = cache_of(policy)
    if isinstance(frames, Window) and frames.window >= 2 * manifest.chunk_frames + 2:
        others = Window(frames.window // 2), SinkWindow.of_frames(frames.window)
        choosing = () if isinstance(policy, Stateful) else choosing_policies(frames.window, manifest)
        anchored = () if manifest.text == "none" or frames.window < 3 else (Anchored.of_frames(frames.window),)
        offered = (policy, *(beside_memory(other, policy) for other in (*others, *anchored)), *choosing)
    if memory:
        context = 1 if pictures.names else starts_shape(path)[1]
        offered = (asked_policy(manifest, memory, context), *offered)
    return tuple(dict.fromkeys(map(policy_text, offered)))


def choosing_policies(frames: int, manifest: CheckpointManifest) -> tuple[PolicyConfig, ...]:
    """Those that choose by content in `frames` slots and can hold a chunk; frames come back by place where the model reckons places.

    None for a model with a camera.
    """
    if manifest.model is not None and manifest.model.camera is not None:
        return ()
    heads = 2 if manifest.model is None else manifest.model.num_heads
    by: Nearness = "place" if manifest.model is not None and manifest.model.travel else "similarity"
    policies = (Participative.of_frames(frames), replace(Retrieval.of_frames(frames), by=by), Merging.of_frames(frames))
    varied = (Different.of_frames(frames), replace(HeadWise.of_frames(frames), static=heads // 2))
    return tuple(policy for policy in (*policies, *varied) if can_hold(policy, manifest.chunk_frames))


def can_hold(policy: PolicyConfig, chunk: int) -> bool:
    """Whether a policy has room for a chunk."""
    try:
        return policy.capacity(chunk) > 0
    except ConfigError:
        return False


def asked_policy(manifest: CheckpointManifest, memory: str, pixel_frames: int) -> PolicyConfig:
    """`memory` as a policy of this checkpoint, where a name alone has the frames of its own policy.

    It must hold a start of `pixel_frames` and a chunk.
    """
    chunk = manifest.chunk_frames
    own = default_config(manifest).policy
    policy = beside_memory(named_policy(memory, own.capacity(chunk)), own)
    stride = 1 if manifest.model is None else manifest.model.temporal_stride
    # A dry run in integers: what would not fit is said now and not when the page is open.
    policy.capacity(chunk)
    layout(integer_base(policy), (1,) * (1 + (pixel_frames - 1) // stride) + (chunk,))
    if manifest.model is not None:
        manifest.model.cache(policy, chunk).shelves()
    return policy


def starts_shape(path: Path) -> tuple[int, int]:
    """Number of start clips and pixel frames of each, read from the file's head; none where worlds begin from nothing."""
    file = path / "starts.safetensors"
    if not file.is_file():
        if read_manifest(path).beginning == "nothing":
            return 0, 0
        raise CheckpointError(f"{path} has no start clips to begin from; copy starts.safetensors beside its manifest")
    with safe_open(file, "np") as tensors:
        count, frames, *_ = tensors.get_slice("frames").get_shape()
        return count, frames


def real_starts(path: Path, pictures: Pictures) -> tuple[RealStart, ...]:
    """What a page lists as a checkpoint's beginnings, as places in the real world; a picture or nothing is none, and begins an episode."""
    manifest = read_manifest(path)
    starts = pictures.starts(manifest.world) if pictures.names else load_starts(path / "starts.safetensors", manifest.world)
    if starts is None:
        return ()
    ways = [way[:length].tolist() for way, length in zip(starts.ways, starts.way_frames, strict=True)]
    places = tuple(RealStart(int(seed), tuple(map(tuple, way))) for seed, way in zip(starts.seeds, ways, strict=True))
    return (RealStart(0), *places) if manifest.beginning == "nothing" else places


def real_choices(learned: PaneChoice, starts: tuple[RealStart, ...]) -> tuple[PaneChoice, ...]:
    """The world that was learned, as the real thing; nothing where it is unknown here or its package is absent."""
    world = learned.world
    for frame_skip in FRAME_SKIPS:
        try:
            environment = open_real(world, frame_skip)
        except MutoscopeError:
            return ()
        fits = world_spec(environment) == world
        environment.close()
        if fits:
            return (replace(real_choice(world, frame_skip, starts), starts=learned.starts, opening=learned.opening),)
    return ()


def real_choice(world: WorldSpec, frame_skip: int, starts: tuple[RealStart, ...]) -> PaneChoice:
    """The real world at that frame skip; each pane opens an environment of its own."""
    return PaneChoice(
        id="real",
        label=f"real {world.name}",
        kind="real",
        world=world,
        make_source=lambda options: RealSource(open_real(world, frame_skip), world, starts),
    )


def open_real(world: WorldSpec, frame_skip: int) -> gymnasium.Env:
    """The environment of a world's name and picture size."""
    return make_world(world.name, height=world.height, width=world.width, frame_skip=frame_skip)
