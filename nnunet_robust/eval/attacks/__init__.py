"""Adversarial attacks on trained models: one perturbation of the whole volume, found through its sliding window."""
