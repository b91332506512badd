"""Folds by patient, and where nnU-Net reads them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import atomic_path, make_folder
from nnunet_robust.common.nnunet_files import read_splits

SPLITS_FILE = "splits_final.json"
"""nnU-Net's name for the file of folds."""


class WrittenCase(NamedTuple):
    """A case once it is written, as the folds and the record of patients need it.

    Attributes:
        name: of the case.
        patient: whose it is.
        stratum: what folds are balanced by.
        patient_known: whether the source says whose it is; else the case counts as a patient of its own.
    """

    name: str
    patient: str
    stratum: str | None
    patient_known: bool = False


def five_folds(cases: Sequence[WrittenCase]) -> list[dict[str, list[str]]]:
    """Make folds for cross-validation by patient, as alike as can be in their strata, whatever the order of the cases.

    Args:
        cases: the training cases.

    Returns:
        nnU-Net's format: for each fold the sorted names of its cases, {"train": [...], "val": [...]}. Each case is in
        "val" once, and no patient is on both sides. As many folds as there are patients, where these are fewer than
        five; none for a single patient.

    >>> folds = five_folds([WrittenCase(f"p{n}_{eye}", f"p{n}", None) for n in (1, 2) for eye in ("left", "right")])
    >>> sorted(fold["val"] for fold in folds)
    [['p1_left', 'p1_right'], ['p2_left', 'p2_right']]
    """
    from sklearn.model_selection import StratifiedGroupKFold

    ordered = sorted(cases)
    names, patients = [case.name for case in ordered], [case.patient for case in ordered]
    strata = [case.stratum or "" for case in ordered]
    folds = min(5, len(set(patients)))
    if folds < 2:
        return []
    if max(strata.count(stratum) for stratum in set(strata)) < folds:
        strata = [""] * len(strata)  # scikit-learn refuses strata that are all smaller than the number of folds
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=12345)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = list(splitter.split(names, strata, patients))
    return [{"train": [names[i] for i in train], "val": [names[i] for i in val]} for train, val in parts]


def install_splits(dataset_folder: Path) -> Path | None:
    """Copy a raw dataset's folds to `$nnUNet_preprocessed/<dataset>/splits_final.json`, where nnU-Net reads them.

    Args:
        dataset_folder: a folder that `write_dataset` returned.

    Returns:
        The copy; None where the dataset has no folds of its own, so that nnU-Net makes them.

    Raises:
        UserError: there are other folds already, or `nnUNet_preprocessed` is not a folder.
    """
    from nnunet_robust.common.folders import nnunet_folder

    source = dataset_folder / SPLITS_FILE
    if not source.is_file():
        return None
    target = nnunet_folder("nnUNet_preprocessed") / dataset_folder.name / SPLITS_FILE
    splits = read_splits(source)
    if not target.exists():
        make_folder(target.parent)
        write_splits(target, splits)
        return target
    try:
        same = read_splits(target) == splits
    except UserError:
        same = False
    if not same:
        raise UserError(f"{target} holds other folds than {source}: delete the one that you do not want")
    return target


def write_splits(path: Path, splits: list[dict[str, list[str]]]) -> None:
    """Write folds in nnU-Net's format, whole or not at all; no file where there are none."""
    if not splits:
        return
    with atomic_path(path, shared=True) as temporary:  # trainings may begin at the same time
        temporary.write_text(json.dumps(splits, indent=2) + "\n", encoding="utf-8")
