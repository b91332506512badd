"""Uncertainty of segmentations, and whether it is calibrated: functions of probabilities, label maps and scores."""
