"""Perturbations as people write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class DisplayNames(dict[str, str]):
    """Perturbation -> its name in sentences and titles; one that is not known has blanks for its underscores."""

    def __missing__(self, perturbation: str) -> str:
        return perturbation.replace("_", " ")


PLAIN = DisplayNames()
"""Where nothing is known but the names themselves."""


def display_names(*manifests: Mapping[str, Any]) -> DisplayNames:
    """The display names that sweeps' manifests have: of their perturbations, and of attacks whatever their source.

    Args:
        manifests: of sweeps; those of earlier versions have none.
    """
    names = DisplayNames()
    for manifest in manifests:
        for name, row in manifest.get("perturbations", {}).items():
            for known, described in ((row.get("attack", {}).get("name"), row.get("attack", {})), (name, row)):
                if known and "display_name" in described:
                    names[known] = described["display_name"]
    return names
