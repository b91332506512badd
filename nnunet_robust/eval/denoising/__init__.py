"""Adaptive preprocessing: images are denoised where they are noisier than what a model was measured to bear."""
