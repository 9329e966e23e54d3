"""Training without TensorBoard: its import takes longer than all the updates of these tests."""

import pytest

from mutoscope.train import monitor


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setattr(monitor, "_tensorboard", lambda folder: None)
