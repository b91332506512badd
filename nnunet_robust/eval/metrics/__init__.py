"""Overlap and surface metrics of segmentations."""
