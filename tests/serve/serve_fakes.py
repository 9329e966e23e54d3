"""Catalogues of fake worlds, and a page that is no browser."""

import json
from typing import Any

import numpy as np

from fakes import WORLD, tiny_checkpoint
from mutoscope.memory.policy import PolicyConfig
from mutoscope.rollout.session import Session, SessionConfig
from mutoscope.serve.catalogue import Catalogue, PaneChoice, PaneOptions
from mutoscope.serve.sources import FakeSource, LearnedSource, PaneSource
from mutoscope.serve.wire import PaneRequest

RATE = 40.0


class FailingSource(FakeSource):
    """A world whose steps fail until it is told otherwise."""

    failing = True

    def step(self, action: np.ndarray) -> np.ndarray:
        """Fail the way a model does."""
        if self.failing:
            raise RuntimeError("the model fell over")
        return super().step(action)


def fake_choice(
    identifier: str = "fake", *, made: list[FakeSource] | None = None, kind: type[FakeSource] = FakeSource, **sizes: Any
) -> PaneChoice:
    """A fake world with steps, policies and three starts; its sources are noted in `made`."""
    sizes = {"rate": RATE, **sizes}

    def make(options: PaneOptions) -> PaneSource:
        source = kind(**sizes)
        if made is not None:
            made.append(source)
        return source

    world = kind(**sizes).world
    return PaneChoice(identifier, f"Fake {identifier}", "fake", world, make, (1, 2, 4), ("window", "sink"), ("left", "middle", "right"))


class Tiny(LearnedSource):
    """A learned world with random weights whose session a test may look at."""

    def __init__(self, policy: PolicyConfig, chunk_frames: int = 1) -> None:
        self.session = Session(tiny_checkpoint(chunk_frames=chunk_frames), SessionConfig(1, 1, policy))
        super().__init__(self.session, stride=chunk_frames)


def learned_choice(policy: PolicyConfig, made: list[Tiny], kind: type[Tiny] = Tiny) -> PaneChoice:
    """A tiny learned world with that memory; its sources are noted in `made`."""

    def make(options: PaneOptions) -> PaneSource:
        made.append(kind(policy))
        return made[-1]

    return PaneChoice("tiny", "Tiny", "learned", WORLD, make, starts=("first", "second"))


def fake_catalogue(*choices: PaneChoice, panes: int = 1) -> Catalogue:
    """A catalogue that opens its first choice `panes` times."""
    choices = choices or (fake_choice(),)
    return Catalogue(choices, tuple(PaneRequest(choices[0].id) for _ in range(panes)))


class FakeConnection:
    """Takes what a player sends, in order: dicts for text, bytes for pictures."""

    def __init__(self) -> None:
        self.received: list[dict | bytes] = []

    async def send_text(self, data: str) -> None:
        """Note a message."""
        self.received.append(json.loads(data))

    async def send_bytes(self, data: bytes) -> None:
        """Note a picture."""
        self.received.append(data)

    def of_type(self, name: str) -> list[dict]:
        """All messages of a type."""
        return [message for message in self.received if isinstance(message, dict) and message["type"] == name]

    def pictures(self) -> list[bytes]:
        """All pictures."""
        return [message for message in self.received if isinstance(message, bytes)]
