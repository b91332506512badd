"""Guarantees for segmentations: bounds and intervals from calibration cases."""
