"""What the sections of a report share: what was read and computed of its sweeps, columns, figures and drawing."""
