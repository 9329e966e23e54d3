"""Memories that choose by content: streaming, rollouts and their replay against plain lists that choose for themselves, row by row."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from fakes import CHOOSING, model_for, tiny_conditions, tiny_latents
from grids import taking_turns
from listed import SCORES, Player, Score, list_player
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.memory import store as stores
from mutoscope.memory.choosing import Grain, Participative, Retrieval
from mutoscope.memory.head_store import AnyStore
from mutoscope.memory.ledger import Ledger, chunk_lengths
from mutoscope.memory.policy import ContentConfig, training_base
from mutoscope.memory.store import MemoryStore
from mutoscope.models import scorers
from mutoscope.models.denoise import clip_layout, played_layout, replay, replay_since
from mutoscope.models.past import Past
from mutoscope.models.transformer import VideoTransformer
from mutoscope.noise.schedule import few_step_levels, x0_from_velocity
from mutoscope.rollout.executor import Executor, Pass, drive
from mutoscope.rollout.planner import commit_chunk, open_chunk
from mutoscope.rollout.training import Rollout, RolloutPlan, roll_out
from streaming import CUTS, Clip, looks_ahead, random_clip, sees_other_noise, stream_clip

FRAMES, CONTEXT = 11, 2
LEVELS = tuple(few_step_levels(4, 5.0).tolist())
LONG_CUTS = {"frame-wise": (1,) * FRAMES, "chunks of 3": (1, 1, 3, 3, 3)}


def listed_clip(model: VideoTransformer, policy: ContentConfig, lengths: tuple[int, ...], clip: Clip, score: Score) -> Tensor:
    """Velocities from a list player per row."""
    rows = []
    for row in range(len(clip.clean)):
        player, start, velocities = list_player(model, policy, max(lengths), score), 0, []
        for length in lengths:
            span, own = slice(start, start + length), clip.conditions.frames(start, start + length).rows(slice(row, row + 1))
            player.open(range(start, start + length), own)
            velocities.append(player.run(clip.noisy[row : row + 1, span], float(clip.sigma[0, start]), own))
            player.commit(clip.clean[row : row + 1, span], own)
            start += length
        rows.append(torch.cat(velocities, dim=1))
    return torch.cat(rows)


def agree(policy: ContentConfig, lengths: tuple[int, ...], score: Score) -> bool:
    """Whether streaming gives the velocities of lists that choose by `score`."""
    model, clip = model_for(policy), random_clip(lengths)
    with torch.no_grad():
        expected = listed_clip(model, policy, lengths, clip, score)
        return torch.allclose(stream_clip(model, policy, lengths, clip), expected, atol=1e-9)


@pytest.mark.parametrize("cut", LONG_CUTS)
@pytest.mark.parametrize("policy", CHOOSING)
def test_streaming_is_what_lists_do_that_choose_for_themselves(policy, cut):
    assert agree(CHOOSING[policy], LONG_CUTS[cut], SCORES[CHOOSING[policy].criterion])


def the_worst(score: Score) -> Score:
    """The opposite taste."""
    return lambda player, frame, conditions: -score(player, frame, conditions)


@pytest.mark.parametrize("policy", CHOOSING)
def test_streaming_broken_twins_with_another_taste(policy):
    right = SCORES[CHOOSING[policy].criterion]
    assert not agree(CHOOSING[policy], LONG_CUTS["frame-wise"], the_worst(right))
    assert not agree(CHOOSING[policy], LONG_CUTS["frame-wise"], lambda player, frame, conditions: frame)


def test_participation_broken_twin_without_the_turn_in_time(monkeypatch):
    rules = [Participative(4, 2, 1, 1, grain) for grain in get_args(Grain)]
    assert all(agree(rule, (1,) * FRAMES, SCORES[rule.criterion]) for rule in rules)
    monkeypatch.setattr(scorers, "in_time", lambda sums, positions, head_dim: sums)
    assert not any(agree(rule, (1,) * FRAMES, SCORES[rule.criterion]) for rule in rules)


TOKENWISE = [name for name, rule in CHOOSING.items() if rule.criterion.startswith("tokens'")]


@pytest.mark.parametrize("policy", TOKENWISE)
def test_tokens_broken_twin_whose_keys_are_turned_to_their_new_place_on_the_screen(policy, monkeypatch):
    monkeypatch.setattr(MemoryStore, "is_mosaic", lambda self, row, slot: False)
    assert not agree(CHOOSING[policy], LONG_CUTS["frame-wise"], SCORES[CHOOSING[policy].criterion])


@pytest.mark.parametrize("policy", TOKENWISE)
def test_the_replay_broken_twins_that_lose_their_tokens(policy, monkeypatch):
    """One forgets where tokens stood, one what was chosen before the chunk at which it begins."""
    model, plan = model_for(CHOOSING[policy]), plan_of(policy, 1)
    rollout = rolled_out(model, plan)
    anywhere = lambda self, frame: torch.arange(model.config.grid.tokens).expand(self.original[frame].shape[1], -1)  # noqa: E731
    for place, wrong in (("home", anywhere), ("sift", lambda self, item, layer: None)):
        with monkeypatch.context() as patched:
            patched.setattr(Past, place, wrong)
            assert not torch.allclose(samples_of(model, rollout, 8), rollout.clean[:, 8:], atol=1e-6)
    assert torch.allclose(samples_of(model, rollout, 8), rollout.clean[:, 8:], atol=1e-9)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [("_bias", lambda self, source: source.bias), ("_merged", lambda self, lost: ())],
    ids=["counts are not heard", "frames vanish"],
)
def test_merging_broken_twins(place, wrong, monkeypatch):
    monkeypatch.setattr(Ledger, place, wrong)
    assert not agree(CHOOSING["merging"], (1,) * FRAMES, SCORES["repetition"])


def test_retrieval_broken_twin_whose_frames_stay_turned_as_they_were(monkeypatch):
    policy = CHOOSING["similarity"]
    monkeypatch.setattr(stores, "NOWHERE", 0)
    kept = MemoryStore.moved
    monkeypatch.setattr(MemoryStore, "moved", lambda self, row, plan: [item for item in kept(self, row, plan) if item[0] in (0, 1)])
    assert not agree(policy, (1,) * FRAMES, SCORES["similarity"])


def test_rows_choose_for_themselves():
    lengths, model = (1,) * FRAMES, model_for(CHOOSING["similarity"])
    clip, chosen = random_clip(lengths), []
    for row in range(2):
        player, start = list_player(model, CHOOSING["similarity"], 1), 0
        for length in lengths:
            own = clip.conditions.frames(start, start + length).rows(slice(row, row + 1))
            chosen.append((row, start, tuple(player.open(range(start, start + length), own))))
            player.commit(clip.clean[row : row + 1, start : start + length], own)
            start += length
    assert {entry[1:] for entry in chosen if not entry[0]} != {entry[1:] for entry in chosen if entry[0]}
    store = model.new_store(CHOOSING["similarity"], 1, 2, clip.clean)
    with pytest.raises(ConfigError, match="give each row a planner of its own"):
        open_chunk(store, slice(0, 2), 1, clip.conditions.frames(0, 1))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", CHOOSING)
def test_streaming_never_looks_ahead(policy, cut):
    assert not looks_ahead(stream_clip, CHOOSING[policy], CUTS[cut])
    assert not sees_other_noise(stream_clip, CHOOSING[policy], CUTS[cut])


def test_looking_ahead_broken_twin_that_knows_where_the_next_chunk_leads():
    def early(model: VideoTransformer, policy: Retrieval, lengths: tuple[int, ...], clip: Clip) -> Tensor:
        conditions = replace(clip.conditions, travel=clip.conditions.travel.roll(-2, dims=1))
        return stream_clip(model, policy, lengths, replace(clip, conditions=conditions))

    assert looks_ahead(early, CHOOSING["place"], CUTS["frame-wise"])


def poison(store: AnyStore, item: Pass) -> None:
    """Fill every slot of the row that the plan does not name as a source, and every shelf that the ledger does not name."""
    rows = item.rows
    for part, plan in zip(store.parts, item.plan.parts, strict=True):
        ledger = part.ledgers[rows.start]
        for slot in set(range(part.spec.slots)) - {source.slot for source in plan.sources}:
            for tensor in (part.keys, part.values, part.originals):
                tensor[:, rows, :, part.span(slot)] = 100.0
        for shelf in set(range(ledger.num_shelves)) - set(ledger.shelf_of.values()):
            part.archive.keys[rows, shelf] = 100.0


@pytest.mark.parametrize("policy", CHOOSING)
def test_unnamed_slots_and_shelves_are_never_read(policy):
    model, lengths = model_for(CHOOSING[policy]), CUTS["frame-wise"]
    clip = random_clip(lengths)
    runs = [stream_clip(model, CHOOSING[policy], lengths, clip, *prepare) for prepare in ((), (poison,))]
    assert torch.equal(*runs)


def noise(frame: int, draw: int) -> Tensor:
    """Fresh noise for a chunk of three frames or, frame-wise, its first."""
    return normal((2, 3, *tiny_latents(1).shape[2:]), stream(0, "rollout", frame, draw), torch.float64)


def plan_of(policy: str, chunk: int) -> RolloutPlan:
    """A rollout that exits early."""
    return RolloutPlan(CHOOSING[policy], CONTEXT, chunk, LEVELS[:3], (1.0, 5 / 6))


def rolled_out(model: VideoTransformer, plan: RolloutPlan) -> Rollout:
    """The package's rollout."""
    real = tiny_latents(FRAMES, seed=3)
    return roll_out(model, plan, real, tiny_conditions(FRAMES), lambda frame, draw: noise(frame, draw)[:, : plan.chunk_frames])


def listed_rollout(model: VideoTransformer, plan: RolloutPlan) -> Tensor:
    """The same from list players; exit steps carry gradient, commits do not."""
    return torch.cat([listed_row(model, plan, slice(row, row + 1)) for row in range(2)])


def listed_row(model: VideoTransformer, plan: RolloutPlan, rows: slice) -> Tensor:
    """One player's rollout."""
    conditions, real, clips, start = tiny_conditions(FRAMES).rows(rows), tiny_latents(FRAMES, seed=3)[rows], [], 0
    player = list_player(model, plan.policy, plan.chunk_frames)
    for index, length in enumerate(chunk_lengths(FRAMES, plan.chunk_frames, plan.context)):
        own, clean = conditions.frames(start, start + length), real[:, start : start + length]
        player.open(range(start, start + length), own)
        if index >= plan.context:
            clean = listed_sample(player, start, plan.first_levels if index == plan.context else plan.levels, own, rows)
        clips.append(clean)
        player.commit(clean.detach(), own)
        start += length
    return torch.cat(clips, dim=1)


def listed_sample(player: Player, start: int, levels: tuple[float, ...], own, rows: slice) -> Tensor:
    """Few-step sampling of a chunk, with gradient in the last step alone."""
    length = own.known.shape[1]
    x = noise(start, 0)[rows, :length]
    for index, sigma in enumerate(levels):
        with torch.set_grad_enabled(index + 1 == len(levels)):
            x0 = x - sigma * player.run(x, sigma, own)
        if index + 1 < len(levels):
            x = (1 - levels[index + 1]) * x0 + levels[index + 1] * noise(start, index + 1)[rows, :length]
    return x0


def samples_of(model: VideoTransformer, rollout: Rollout, start: int = 0) -> Tensor:
    """The replay's samples from the chunk at `start` on, with gradient."""
    parts = played_layout(model, rollout.sources, "cpu")
    velocity = replay_since(model, rollout.clean, rollout.noisy, rollout.sigma, tiny_conditions(FRAMES), parts, start)
    return x0_from_velocity(rollout.noisy[:, start:], velocity, rollout.sigma[:, start:])


def gradients(model: VideoTransformer, samples: Tensor, start: int) -> Tensor:
    """Gradient of a random linear function of the frames from `start` on."""
    direction = tiny_latents(FRAMES, seed=7)[:, start:]
    parts = torch.autograd.grad(
        (samples[:, start - FRAMES :] * direction).sum(), list(model.parameters()), retain_graph=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize(("policy", "chunk"), taking_turns(CHOOSING, [1, 3]))
def test_the_replay_of_what_was_chosen_is_the_rollout(policy, chunk):
    model, plan = model_for(CHOOSING[policy]), plan_of(policy, chunk)
    rollout, expected = rolled_out(model, plan), listed_rollout(model, plan)
    assert len(rollout.sources) == 2 and torch.allclose(rollout.clean, expected, atol=1e-9)
    for start in (0, 8):
        samples, first = samples_of(model, rollout, start), max(start, CONTEXT)
        assert torch.allclose(samples, rollout.clean[:, start:], atol=1e-9)
        found, wanted = gradients(model, samples, first), gradients(model, expected, first)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-9
    swapped = replace(rollout, sources=rollout.sources[::-1])
    assert rollout.sources[0] == rollout.sources[1] or not torch.allclose(samples_of(model, swapped), rollout.clean, atol=1e-6)


@pytest.mark.parametrize("policy", CHOOSING)
def test_the_replay_broken_twin_that_chooses_nothing(policy):
    model, plan = model_for(CHOOSING[policy]), plan_of(policy, 1)
    rollout = rolled_out(model, plan)
    parts = clip_layout(model, training_base(plan.policy), rollout.lengths, "cpu")
    velocity = replay(model, rollout.clean, rollout.noisy, rollout.sigma, tiny_conditions(FRAMES), parts)
    assert not torch.allclose(x0_from_velocity(rollout.noisy, velocity, rollout.sigma), rollout.clean, atol=1e-6)


def test_a_rollouts_noise_does_not_depend_on_how_rows_are_grouped():
    """Room for everything: nothing is chosen, and the rollout is that of the full memory, whose rows go together."""
    model, roomy = model_for(CHOOSING["place"]), Retrieval(1, FRAMES, "place", host_mib=0.06)
    alone, together = (rolled_out(model, replace(plan_of("place", 1), policy=policy)) for policy in (roomy, training_base(roomy)))
    assert len(together.sources) == 1 and torch.allclose(alone.clean, together.clean, atol=1e-9)


@pytest.mark.parametrize("policy", CHOOSING)
def test_data_is_not_played_and_says_what_to_train_under(policy):
    with pytest.raises(ConfigError, match=f"train under '{'sink' if 'participative' in policy else 'window'}' .*, then play or match"):
        clip_layout(model_for(CHOOSING[policy]), CHOOSING[policy], (1,) * 4, "cpu")


def test_a_model_without_places_and_a_budget_without_room_are_refused():
    small = replace(CHOOSING["place"], host_mib=0.01)
    model, like = model_for(small), tiny_latents(1)
    with pytest.raises(ConfigError, match=r"takes 11,536 bytes on the host, and the archive may take 10,485 per player; .* host_mib=1"):
        model.new_store(small, 1, 1, like)
    model.config = replace(model.config, travel=False)
    with pytest.raises(ConfigError, match="does not reckon where it stands"):
        model.new_store(CHOOSING["place"], 1, 1, like)


def read_by(change: Callable[[MemoryStore], None]) -> tuple:
    """The plan of the chunk after a change to a store that holds ten frames."""
    policy, clip = CHOOSING["similarity"], random_clip((1,) * FRAMES)
    model = model_for(policy)
    store = model.new_store(policy, 1, 1, clip.clean)
    for frame in range(10):
        drive(
            Executor(model),
            [
                commit_chunk(
                    store, slice(0, 1), clip.clean[:1, frame : frame + 1], clip.conditions.frames(frame, frame + 1).rows(slice(0, 1))
                )
            ],
        )
    change(store)
    return open_chunk(store, slice(0, 1), 1, clip.conditions.frames(10, 11).rows(slice(0, 1)))


def test_a_choice_holds_for_the_whole_chunk():
    """Opening again gives the same plan, whatever the notes say by then; a new chunk asks anew."""
    policy, clip = CHOOSING["similarity"], random_clip((1,) * FRAMES)
    store = model_for(policy).new_store(policy, 1, 2, clip.clean)
    row, own = slice(0, 1), clip.conditions.frames(0, 1).rows(slice(0, 1))
    first = open_chunk(store, row, 1, own)
    store.notes.normal_()
    assert open_chunk(store, row, 1, own) is first
    assert read_by(lambda store: None).sources != read_by(lambda store: store.archive.notes.neg_()).sources
