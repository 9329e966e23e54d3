"""Mutoscope: a video diffusion model as a world that answers every key press with the next frame."""

__version__ = "0.1.0"
