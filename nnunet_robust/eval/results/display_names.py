"""Perturbations as people write them."""

from __future__ import annotations

from nnunet_robust.eval.results.manifest import Manifest


class DisplayNames(dict[str, str]):
    """Perturbation -> its name in sentences and titles; one that is not known has blanks for its underscores."""

    def __missing__(self, perturbation: str) -> str:
        return perturbation.replace("_", " ")


PLAIN = DisplayNames()
"""Where nothing is known but the names themselves."""


def display_names(*manifests: Manifest) -> DisplayNames:
    """The display names that sweeps' manifests have: of their perturbations, and of attacks whatever their source.

    Args:
        manifests: of sweeps; those of earlier versions have none.
    """
    names = DisplayNames()
    for manifest in manifests:
        for name, row in manifest.perturbations.items():
            if row.attack is not None and row.attack.name and row.attack.display_name is not None:
                names[row.attack.name] = row.attack.display_name
            if row.display_name is not None:
                names[name] = row.display_name
    return names
