"""Commented studies, for `nnunet-robust study init`."""

from __future__ import annotations

from pathlib import Path

EXAMPLES = {
    "skip-connections": "architectures on textures of rising difficulty (after Kamath et al. 2023)",
    "context": "patch sizes and architectures on volumes (after Kamath et al. 2022)",
    "clinical": "your own sources, converted, in 2d and 3d",
    "smoke": "does all of it run here? Minutes on a CPU",
}


def example(name: str) -> Path:
    """The file of an example, or of the demo."""
    return Path(__file__).with_name(f"{name}.yaml")
