"""Models x cases x perturbations x levels -> results, in memory."""
