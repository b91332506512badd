"""Which perturbations at which levels a sweep goes through, from what the user named."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.rows import PERTURBATIONS, PRESETS, perturbation, with_source
from nnunet_robust.perturbations import check_level


def conditions_for(
    names: Sequence[str], preset: str | None, levels: Sequence[float] | None
) -> dict[str, tuple[float, ...]]:
    """List perturbations, each with its rising levels. The clean images are swept in any case.

    Args:
        names: perturbations, and combinations such as `gaussian_noise+gaussian_blur`, each at its default levels or at
            `levels`; `gaussian_noise=0.1,0.2` has levels of its own.
        preset: a name of `PRESETS`, with levels of its own; adds to `names`.
        levels: levels for each of `names`, in their own units.

    Raises:
        UserError: an unknown perturbation or preset, a level out of range, levels without a perturbation, or nothing
            at all.
    """
    if not names and preset is None:
        raise UserError(f"no perturbations: name some with --perturb ({', '.join(PERTURBATIONS)}) or take a --preset")
    if preset is not None and preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"there is no preset {preset!r}: {hint}choose from {', '.join(PRESETS)}")
    if levels is not None and not names:
        raise UserError("--levels belong to perturbations named with --perturb; a preset has levels of its own")
    chosen: dict[str, set[float]] = {name: set(levels) for name, levels in PRESETS.get(preset or "", {}).items()}
    for text in names:
        name, own = _own_levels(text)
        for level in own or levels or (0.0,):  # 0 is in range for all: the name alone is checked
            check_level(perturbation(name), level)
        chosen.setdefault(name, set()).update(own or levels or perturbation(name).levels)
    return {name: tuple(sorted(values)) for name, values in chosen.items()}


def with_attacks(conditions: Mapping[str, Sequence[float]], sources: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Add to conditions every attack from each source, and random noise of the same budgets.

    Args:
        conditions: perturbation -> levels.
        sources: names of the models whose attacked images all models get; "": each model gets its own. An attack that
            names its source (`pgd_linf_from_...`) keeps it.
    """
    found: dict[str, set[float]] = {}
    for name, levels in conditions.items():
        row = perturbation(name)
        named = [with_source(name, source) if source else name for source in sources] if row.white_box else [name]
        for one in (*named, *filter(None, [row.control])):
            found.setdefault(one, set()).update(levels)
    return {name: tuple(sorted(levels)) for name, levels in found.items()}


def _own_levels(text: str) -> tuple[str, list[float]]:
    """The name and the levels of `gaussian_noise=0.1,0.2`; none for a name alone."""
    name, _, levels = text.partition("=")
    try:
        return name, [float(level) for level in levels.split(",")] if "=" in text else []
    except ValueError:
        raise UserError(f"--perturb {text}: levels are numbers with commas between, as in {name}=0.1,0.2") from None
