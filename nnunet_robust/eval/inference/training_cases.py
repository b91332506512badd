"""Which cases a model was trained on, as far as nnU-Net's files tell: nothing that is measured on those holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nnunet_robust.common.digest import sha256
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.folders import nnunet_folder
from nnunet_robust.common.nnunet_files import read_splits, training_files
from nnunet_robust.common.sentences import listed
from nnunet_robust.eval.images.image_files import ImageFiles
from nnunet_robust.eval.inference.models import Model


@dataclass(frozen=True)
class Use:
    """What cases are for, in words.

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


@dataclass(frozen=True)
class Overlap:
    """What is known of whether a model was trained on cases.

    Attributes:
        dataset: name of the dataset that it was trained on.
        found: fold -> case -> the training case of this fold that it is; without folds that have none.
        n_trained: how many cases its folds were trained on, together.
        unknown: what could not be looked up, and why; empty where all could.
    """

    dataset: str
    found: Mapping[str, Mapping[str, str]]
    n_trained: int = 0
    unknown: str = ""

    @property
    def cases(self) -> dict[str, str]:
        """Case -> the training case that it is, of all folds together."""
        return {case: other for of_fold in self.found.values() for case, other in of_fold.items()}


class TrainingCases:
    """Looks cases up among those that models were trained on; reads no file twice, however many models there are."""

    def __init__(self) -> None:
        self._datasets: dict[str, _Dataset] = {}
        self._digests: dict[Path, str] = {}
        self._same_files: dict[tuple[str, Path], frozenset[str]] = {}

    def overlap(self, cases: Sequence[ImageFiles], model: Model, by_name: bool = True) -> Overlap:
        """Look up which cases a model was trained on, by name and by file.

        Which cases a fold was trained on stands in `splits_final.json` of the preprocessed dataset. A case is one of
        them if it has the name of one, or if one of its files is, byte by byte, an image of one (where the raw dataset
        is here). A copy under another name whose bytes differ is not recognised.

        Args:
            cases: which; their labels are not looked at.
            model: each of whose folds counts.
            by_name: whether a name says which case it is; not so for the own cases of another dataset.
        """
        name = model.predictor.plans_manager.dataset_name
        dataset = self._datasets.setdefault(name, _Dataset(name))
        trained = {fold: dataset.trained_on(fold) for fold in model.fold.split("+")}
        found: dict[str, dict[str, str]] = {}
        for case in cases:
            others = ({case.name} if by_name else set()) | self._same(case, dataset)
            for fold, of_fold in trained.items():
                if same := sorted(others & (of_fold or frozenset()), key=lambda other: (other != case.name, other)):
                    found.setdefault(fold, {})[case.name] = same[0]
        unknown = ""
        if None in trained.values():
            unknown = f"there is no splits_final.json of {name} in nnUNet_preprocessed"
        elif dataset.listed is None:
            unknown = f"there is no raw dataset {name} in nnUNet_raw, so that files could not be compared"
        return Overlap(name, found, len(frozenset().union(*(of or () for of in trained.values()))), unknown)

    def _same(self, case: ImageFiles, dataset: _Dataset) -> frozenset[str]:
        """The training cases of which a case has an image; digests are computed of files of one size alone."""
        found: frozenset[str] = frozenset()
        for path in (path.resolve() for path in case.images if path.is_file()):
            if (dataset.name, path) not in self._same_files:
                alike = dataset.by_size.get(path.stat().st_size, [])
                self._same_files[dataset.name, path] = frozenset(
                    name for other, name in alike if other == path or self._digest(other) == self._digest(path)
                )
            found |= self._same_files[dataset.name, path]
        return found

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = sha256(path)
        return self._digests[path]


def check_not_trained_on(cases: Sequence[ImageFiles], model: Model, use: Use = CALIBRATION) -> tuple[bool, str]:
    """Make sure that a model was not trained on cases, see `TrainingCases.overlap`.

    Args:
        cases: which; their labels are not looked at.
        model: all of whose folds count.
        use: what they are for.

    Returns:
        Whether that could be found out, and what is known, in words.

    Raises:
        UserError: it was trained on some of them; says on how many and on which.
    """
    overlap = TrainingCases().overlap(cases, model)
    if found := overlap.cases:
        listed = ", ".join(_both_names(name, other) for name, other in found.items())
        raise UserError(
            f"{len(found)} of {len(cases)} cases are among the {overlap.n_trained} that fold {model.fold} of the model "
            f"was trained on: {listed}; {use.harm}: leave them out (if another patient's image has that name by "
            f"chance, rename it)"
        )
    if overlap.unknown:
        return False, f"it is not known which cases the model was trained on ({overlap.unknown}): {use.condition}"
    return True, (
        f"none of these cases is, by name or file, among the {overlap.n_trained} that fold {model.fold} was trained on "
        f"(splits_final.json of {overlap.dataset})"
    )


def refuse_overlaps(overlaps: Mapping[str, Overlap], n_cases: int) -> None:
    """Refuse to score models on cases that they were trained on.

    Args:
        overlaps: name of a model -> what is known of it.
        n_cases: that the models would be scored on.

    Raises:
        UserError: there are any; names the cases of each fold of each model.
    """
    faults = [
        f"fold {fold} of {name} on {len(cases)} of the {n_cases} ({_listed(cases)})"
        for name, overlap in overlaps.items()
        for fold, cases in overlap.found.items()
    ]
    if faults:
        raise UserError(
            f"models would be scored on cases that they were trained on: {'; '.join(faults)}: choose other cases or "
            f"folds (if another patient's image has that name by chance, rename it), or add --allow-training-cases, "
            f"which manifest and report will say"
        )


def _listed(cases: Mapping[str, str]) -> str:
    return listed([_both_names(name, other) for name, other in cases.items()], 10)


def _both_names(name: str, other: str) -> str:
    return name if name == other else f"{name} (there {other})"


class _Dataset:
    """A dataset that models were trained on, as far as its files are here."""

    def __init__(self, name: str) -> None:
        self.name = name

    def trained_on(self, fold: str) -> frozenset[str] | None:
        """The cases that a fold was trained on; None where that is not known."""
        splits = self._splits
        if splits is None:
            return frozenset(self.listed) if fold == "all" and self.listed is not None else None
        if fold.isdigit() and int(fold) < len(splits):
            return frozenset(splits[int(fold)]["train"])
        # A fold beyond the file is one of nnU-Net's own random splits: any case may be in it, as all are in fold "all".
        # For both nnU-Net draws on every case of the dataset, also on those that the file leaves out.
        named = (name for split in splits for part in ("train", "val") for name in split[part])
        return frozenset((*named, *(self.listed or ())))

    @cached_property
    def _splits(self) -> Sequence[Mapping[str, Sequence[str]]] | None:
        try:
            file = nnunet_folder("nnUNet_preprocessed") / self.name / "splits_final.json"
        except UserError:
            return None
        if not file.is_file():
            return None
        return read_splits(file)

    @cached_property
    def listed(self) -> Mapping[str, Sequence[Path]] | None:
        """Training case -> its images; None where the raw dataset is not here."""
        try:
            raw = nnunet_folder("nnUNet_raw") / self.name
        except UserError:
            return None
        if not (raw / "dataset.json").is_file():
            return None
        return {name: images for name, (images, _) in training_files(raw).items()}

    @cached_property
    def by_size(self) -> Mapping[int, Sequence[tuple[Path, str]]]:
        """Size of a file -> the images of that size, each with its training case."""
        sizes: dict[int, list[tuple[Path, str]]] = {}
        for name, images in (self.listed or {}).items():
            for path in (image.resolve() for image in images):
                if path.is_file():
                    sizes.setdefault(path.stat().st_size, []).append((path, name))
        return sizes
