"""The cases that a model was trained on, as far as nnU-Net's files tell: nothing can be guaranteed on those."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_robust.common.digest import sha256
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.folders import nnunet_folder
from nnunet_robust.eval.images.image_files import ImageFiles
from nnunet_robust.eval.inference.models import Model


@dataclass(frozen=True)
class Use:
    """The use that cases are for, in words.

    Attributes:
        harm: what is wrong with cases that the model was trained on.
        condition: what holds only if it was not.
    """

    harm: str
    condition: str


CALIBRATION = Use(
    "promises made on them would not hold for others",
    "what is promised holds only if none of the calibration's was among them",
)
REFERENCE = Use(
    "what a model makes of those is unlike what it makes of any others, and every new image would be a stranger",
    "the rate of false alarms holds only if none of the reference's was among them",
)


def check_not_trained_on(cases: Sequence[ImageFiles], model: Model, use: Use = CALIBRATION) -> tuple[bool, str]:
    """Make sure that a model was not trained on cases.

    Which cases a fold was trained on stands in `splits_final.json` of the preprocessed dataset. A case is one of them
    if it has the name of one, or if one of its files is, byte by byte, an image of one (where the raw dataset is here).
    A copy under another name whose bytes differ is not recognised.

    Args:
        cases: which; their labels are not looked at.
        model: all of whose folds count.
        use: what they are for.

    Returns:
        Whether that could be found out, and what is known, in words.

    Raises:
        UserError: it was trained on some of them; says on how many and on which.
    """
    dataset = model.predictor.plans_manager.dataset_name
    trained = _training_cases(dataset, model.fold.split("+"))
    if trained is None:
        return False, (
            f"it is not known which cases the model was trained on (there is no splits_final.json of {dataset} in "
            f"nnUNet_preprocessed): {use.condition}"
        )
    found = {case.name: case.name for case in cases if case.name in trained}
    found.update(_same_files([case for case in cases if case.name not in found], dataset, trained))
    if found:
        listed = ", ".join(name if name == other else f"{name} (there {other})" for name, other in found.items())
        raise UserError(
            f"{len(found)} of {len(cases)} cases are among the {len(trained)} that fold {model.fold} of the model was "
            f"trained on: {listed}; {use.harm}: leave them out (if another patient's image has that name by "
            f"chance, rename it)"
        )
    return True, (
        f"none of these cases is, by name or file, among the {len(trained)} that fold {model.fold} was trained on "
        f"(splits_final.json of {dataset})"
    )


def _training_cases(dataset: str, folds: Sequence[str]) -> frozenset[str] | None:
    try:
        file = nnunet_folder("nnUNet_preprocessed") / dataset / "splits_final.json"
    except UserError:
        return None
    if not file.is_file():
        return None
    splits = json.loads(file.read_text(encoding="utf-8"))
    everything = frozenset(name for split in splits for part in ("train", "val") for name in split[part])
    # A fold beyond the file is one of nnU-Net's own random splits: any case may be in it, as all are in fold "all".
    known = [frozenset(splits[int(f)]["train"]) if f.isdigit() and int(f) < len(splits) else everything for f in folds]
    return frozenset().union(*known)


def _same_files(cases: Sequence[ImageFiles], dataset: str, trained: frozenset[str]) -> dict[str, str]:
    """Case -> the training case whose image it is."""
    try:
        raw = nnunet_folder("nnUNet_raw") / dataset
    except UserError:
        return {}
    if not (raw / "dataset.json").is_file():
        return {}
    listed = get_filenames_of_train_images_and_targets(str(raw))
    by_size: dict[int, list[tuple[Path, str]]] = {}
    for name in sorted(trained & set(listed)):
        for path in map(Path, listed[name]["images"]):
            if path.is_file():
                by_size.setdefault(path.stat().st_size, []).append((path, name))
    found = {}
    for case in cases:
        for path in (path for path in case.images if path.is_file()):
            alike = by_size.get(path.stat().st_size, [])
            digest = sha256(path) if alike else ""
            for other, name in alike:
                if sha256(other) == digest:
                    found[case.name] = name
    return found
