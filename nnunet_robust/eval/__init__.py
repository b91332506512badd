"""Perturb images, predict, measure, report."""
