"""Synthetic and clinical sources to nnU-Net raw datasets: one module per source, one shared writer. Never downloads."""
