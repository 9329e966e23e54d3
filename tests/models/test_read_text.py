"""A prompt read once per layer: exact, and not projected again by any pass of a session."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fakes import WORLD, tiny_checkpoint, tiny_conditions, tiny_config, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.memory.policy import Window
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.models.conditions import Conditions, ReadText
from mutoscope.models.denoise import bidirectional, clip_layout, teacher_forced
from mutoscope.models.transformer import Block, VideoTransformer, told_once
from mutoscope.rollout.session import Session, SessionConfig

TEXT, TOKENS, FRAMES = 7, 5, 4


def texted(action_dim: int = 3) -> VideoTransformer:
    """A tiny model with text, and actions if they are wanted."""
    return tiny_model(tiny_config(text_dim=TEXT, action_dim=action_dim, travel=action_dim > 0))


def prompt(seed: int, rows: int = 2) -> Tensor:
    return normal((rows, TOKENS, TEXT), stream(seed, "fake prompt"), torch.float64)


def conditions(told: int = 1) -> Conditions:
    return tiny_conditions(FRAMES).told(prompt(told), prompt(0))


def counted(model: VideoTransformer) -> list[str]:
    """Notes every projection of text tokens into keys or values from now on."""
    calls: list[str] = []
    for block in model.blocks:
        assert isinstance(block, Block)
        for name in ("k", "v"):
            getattr(block.cross_attn, name).register_forward_hook(lambda *given, name=name: calls.append(name))
    return calls


def run_whole(model: VideoTransformer, told: Conditions) -> Tensor:
    return bidirectional(model, tiny_latents(FRAMES), torch.full((2, FRAMES), 0.6, dtype=torch.float64), told)


def run_forced(model: VideoTransformer, told: Conditions) -> Tensor:
    clean, noisy, sigma = tiny_latents(FRAMES), tiny_latents(FRAMES, seed=1), torch.full((2, FRAMES), 0.4, dtype=torch.float64)
    lengths = (1, 1, 2)
    return teacher_forced(model, clean, noisy, sigma, told, told.null(lengths), clip_layout(model, Window(2), lengths, "cpu"))


@pytest.mark.parametrize("run", [run_whole, run_forced])
def test_a_prompt_that_was_read_gives_the_same_velocity_bit_for_bit(run: Callable[[VideoTransformer, Conditions], Tensor]):
    model, raw = texted(), conditions()
    read = told_once(model, raw)
    assert isinstance(read.text, ReadText) and read.text.keys.shape == (2, 2, 2, TOKENS, 12)
    assert torch.equal(run(model, read), run(model, raw))
    other = told_once(model, conditions(2))
    assert not torch.allclose(run(model, replace(read, text=other.text)), run(model, raw), atol=1e-6), (
        "the broken twin: another prompt's keys"
    )


def test_the_noisy_half_alone_is_told_the_negative_prompt():
    """Broken twin: nulling the clean half too changes what the past wrote, and so the velocity."""
    model, told = texted(), conditions()
    clean, noisy, sigma = tiny_latents(FRAMES), tiny_latents(FRAMES, seed=1), torch.full((2, FRAMES), 0.4, dtype=torch.float64)
    lengths = (1,) * FRAMES
    parts = clip_layout(model, Window(3), lengths, "cpu")
    found = teacher_forced(model, clean, noisy, sigma, told, told.null(lengths), parts)
    by_hand = replace(told, text=prompt(0), known=torch.zeros_like(told.known), travel=told.null(lengths).travel)
    assert torch.equal(found, teacher_forced(model, clean, noisy, sigma, told, by_hand, parts))
    assert not torch.allclose(found, teacher_forced(model, clean, noisy, sigma, told.null(lengths), told.null(lengths), parts), atol=1e-6)
    assert not torch.allclose(found, teacher_forced(model, clean, noisy, sigma, told, told, parts), atol=1e-6)


def test_gradient_reaches_the_text_path_in_training():
    model = texted()
    run_forced(model, conditions()).square().mean().backward()
    for name in ("text_embedding.0.weight", "blocks.0.cross_attn.k.weight", "blocks.1.cross_attn.v.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None and gradient.abs().max() > 0
    assert not model.read_text(prompt(1)).keys.requires_grad, "what is read once is for passes without gradient"


def checkpoint(action_dim: int, stage: str = "matching") -> Checkpoint:
    made = tiny_checkpoint(stage)  # type: ignore[arg-type]
    model = texted(action_dim).float().eval().requires_grad_(False)
    return replace(made, model=model)


def played(session: Session, frames: int = 3) -> np.ndarray:
    return np.stack([session.step(np.zeros(session.world.actions.dim, np.float32)) for _ in range(frames)])


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_session_projects_its_prompt_once_per_layer_and_never_again(guidance: float):
    made = checkpoint(WORLD.actions.dim, "autoregressive")
    calls = counted(made.model)
    session = Session(made, SessionConfig(2, 3, Window(4), guidance=guidance))
    session.say(prompt(1, 1), prompt(0, 1))
    layers, once = len(made.model.blocks), 2 * 2 * len(made.model.blocks)  # keys and values, of the prompt and of the negative one
    assert len(calls) == once
    session.reset(0, 0)
    first = played(session)
    session.commit()
    assert len(calls) == once, f"{len(calls) - once} projections came after the prompt, {layers} layers"
    session.say(prompt(2, 1), prompt(0, 1))
    assert len(calls) == 2 * once and not np.array_equal(played(session), first)


def test_reading_once_shows_what_reading_anew_shows(monkeypatch: pytest.MonkeyPatch):
    """Broken twin of the counter: a session that reads in every pass projects more often; its pictures are the same."""
    pictures, counts = [], []
    for anew in (False, True):
        made = checkpoint(WORLD.actions.dim)
        calls = counted(made.model)
        if anew:
            monkeypatch.setattr(VideoTransformer, "read_text", lambda model, text: text)
        session = Session(made, SessionConfig(2, 3, Window(4)))
        session.say(prompt(1, 1), prompt(0, 1))
        session.reset(0, 0)
        pictures.append(played(session))
        counts.append(len(calls))
    assert np.array_equal(*pictures) and counts[1] > counts[0] == 8


def test_a_parked_session_keeps_its_prompt():
    made = checkpoint(WORLD.actions.dim)
    sessions = [Session(made, SessionConfig(2, 3, Window(4))) for _ in range(2)]
    sessions[0].say(prompt(1, 1), prompt(0, 1))
    sessions[0].reset(0, 0)
    played(sessions[0])
    sessions[1].restore(sessions[0].snapshot())
    assert np.array_equal(played(sessions[1]), played(sessions[0]))


def test_a_model_with_text_is_told_something_that_fits():
    model, raw = texted(), conditions()
    for wrong in (torch.zeros(2, 0, TEXT), torch.zeros(2, TOKENS, TEXT + 1), torch.zeros(1, TOKENS, TEXT), torch.zeros(2, 0, 0)):
        with pytest.raises(ConfigError, match="this model reads"):
            run_whole(model, replace(raw, text=wrong.double()))
    with pytest.raises(ConfigError, match="this model reads"):
        run_whole(model, replace(raw, text=ReadText(*torch.zeros(2, 3, 2, 2, TOKENS, 12, dtype=torch.float64))))
    with pytest.raises(ConfigError, match="reads none"):
        tiny_model().read_text(prompt(1))
    plain = tiny_conditions(FRAMES)
    assert told_once(tiny_model(), plain) is plain


def test_text_alone_and_actions_alone_are_worlds_too():
    """A world may have no actions; its model has no embedding of them, and follows the text alone."""
    model = texted(action_dim=0)
    assert not any(isinstance(module, nn.Module) and name.startswith("action_embedding") for name, module in model.named_modules())
    empty = torch.zeros(2, FRAMES, 1, 0, dtype=torch.float64)
    first, second = (replace(conditions(told), actions=empty, travel=empty[:, :, 0]) for told in (1, 2))
    assert not torch.allclose(run_whole(model, first), run_whole(model, second), atol=1e-6)
    assert torch.equal(run_whole(model, first.null((FRAMES,))), run_whole(model, second.null((FRAMES,))))
