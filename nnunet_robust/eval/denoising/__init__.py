"""Adaptive preprocessing: images are denoised where their noise is above the noise tolerance of a model."""
