"""Property tests have no time limit per example: machines that run tests are often busy with a training run."""

from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")
