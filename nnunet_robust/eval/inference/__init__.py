"""Trained models, and how they predict: the sliding window, precision, members, ensembles."""
