"""Which cases of a source are converted, and which of its patients are kept for testing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator


def check_selection(cases: int | None, test_share: float) -> None:
    """Refuse a number of cases below 1 and a share outside of [0, 1).

    Raises:
        UserError: one of the two is out of its range.
    """
    if cases is not None and cases < 1:
        raise UserError(f"cases must be at least 1, got {cases}")
    if not 0 <= test_share < 1:
        raise UserError(f"test_share must be in [0, 1), got {test_share}")


def draw_patients(strata: Mapping[str, str], share: float, seed: int) -> set[str]:
    """Draw the patients that become test cases, of each stratum its share.

    Of two shares, the larger one's patients include the smaller one's.

    Args:
        strata: the patients, and what the draw is to be balanced by, such as a diagnosis.
        share: share of all patients, in [0, 1); rounded to whole patients, and at least one unless it is 0.
        seed: of the draw.

    Returns:
        The patients that are drawn.

    Raises:
        UserError: no patient would be left for training.

    >>> patients = {"p1": "benign", "p2": "benign", "p3": "malignant", "p4": "malignant"}
    >>> sorted(patients[patient] for patient in draw_patients(patients, share=0.5, seed=0))
    ['benign', 'malignant']
    """
    if not share:
        return set()
    count = max(1, round(share * len(strata)))
    if count >= len(strata):
        raise UserError(f"test_share {share} of {len(strata)} patients leaves none for training")
    names = sorted(strata)
    shuffled = [names[index] for index in numpy_generator("test share", seed).permutation(len(names))]
    groups: dict[str, list[str]] = {}
    for patient in shuffled:
        groups.setdefault(strata[patient], []).append(patient)
    # A patient's place in its stratum, as a share: sorted by it, every beginning of the list has the strata's shares.
    place = {patient: (index + 0.5) / len(group) for group in groups.values() for index, patient in enumerate(group)}
    return set(sorted(shuffled, key=place.__getitem__)[:count])


def recorded(parameters: Any, if_changed: Collection[str]) -> dict[str, Any]:
    """Return a dataclass of parameters as a dataset's record holds it.

    Args:
        parameters: the parameters.
        if_changed: options that are recorded only where they are not at their default, as datasets that were made
            before there was such an option have none in their record.
    """
    default = type(parameters)()
    return {
        name: value
        for name, value in asdict(parameters).items()
        if name not in if_changed or value != getattr(default, name)
    }
