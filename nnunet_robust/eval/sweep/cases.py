"""The cases of a sweep, those of its folders and those of series: found, digested, and read once before all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nnunet_robust.common.console import quiet, warn
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.cases import CaseFiles, sha256_of_case
from nnunet_robust.eval.images.image_files import check_stored
from nnunet_robust.eval.images.regions import Background
from nnunet_robust.eval.images.selection import cases_of
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.selection import interface
from nnunet_robust.eval.inference.training_cases import Overlap, TrainingCases, refuse_overlaps
from nnunet_robust.eval.results.manifest import Manifest
from nnunet_robust.eval.sweep.parameters import SweepParameters
from nnunet_robust.eval.sweep.series import SeriesCases, series_cases


@dataclass(frozen=True)
class SweepCases:
    """All cases of a sweep.

    Attributes:
        own: the cases of its folders, or of its dataset.
        digests: own case -> digest of its files; None where they cannot be read.
        series: the test sets of a series, each with its cases.
    """

    own: Sequence[CaseFiles]
    digests: Mapping[str, str | None]
    series: Sequence[SeriesCases]

    @property
    def all_digests(self) -> list[Mapping[str, str | None]]:
        """The digests of its own cases, and those of each test set."""
        return [self.digests, *(of_set.digests for of_set in self.series)]

    @property
    def every(self) -> list[CaseFiles]:
        """Its own cases, and those of each test set."""
        return [*self.own, *(case for of_set in self.series for case in of_set.cases)]

    @property
    def patients(self) -> dict[str, str]:
        """Case -> its patient."""
        return {case.name: case.patient for case in self.every}

    @property
    def patients_known(self) -> bool:
        """Whether the dataset says whose its cases are; else each counts as a patient of its own."""
        return all(case.patient_known for case in self.own or self.every)


def find_cases(parameters: SweepParameters, dataset: str | None, models: Sequence[Model]) -> SweepCases:
    """Find the cases that a sweep goes over.

    Args:
        parameters: of the sweep.
        dataset: its full name, for its own cases.
        models: of the sweep, which take the same images.

    Raises:
        UserError: there are none, or a test set of the series lacks a file.
    """
    shared = interface(models[0])
    cases = cases_of(parameters, dataset, models[0].fold, shared["file ending"], shared["channels"])
    series = series_cases(parameters.series, parameters.labels, cases, shared["file ending"], shared["channels"])
    return SweepCases(cases, {case.name: _digest(case, shared["channels"]) for case in cases}, series)


def training_overlaps(
    parameters: SweepParameters, dataset: str | None, cases: SweepCases, models: Sequence[Model]
) -> dict[str, Overlap]:
    """Model key -> which cases of a sweep it was trained on.

    Args:
        parameters: of the sweep.
        dataset: its full name, for its own cases.
        cases: of the sweep, those of its series, too.
        models: of the sweep, as they are: denoised ones and ensembles are made of these.

    Raises:
        UserError: there are any, and it is not said that they may be scored.
    """
    known = TrainingCases()
    found = {}
    for model in models:
        # The own cases of another dataset may have the same names by chance.
        by_name = parameters.images is not None or dataset == model.predictor.plans_manager.dataset_name
        found[model.key] = known.overlap(cases.every, model, by_name)
    if not parameters.allow_training_cases:
        refuse_overlaps(found, len(cases.patients))
    return found


class NewCases(NamedTuple):
    """What was found when cases were read for the first time.

    Attributes:
        faults: case -> what is wrong with it.
        notes: case -> what is doubtful about it.
    """

    faults: dict[str, str]
    notes: dict[str, Sequence[str]]


def read_new_cases(cases: Sequence[CaseFiles], manifest: Manifest, model: Model, background: Background) -> NewCases:
    """Read every case that no earlier run has read, so that faults are told before anything is computed.

    Args:
        cases: of the sweep's folders.
        manifest: of the output folder.
        model: any of the models.
        background: what decides over the images' regions.

    Returns:
        See `NewCases`.

    Raises:
        UserError: all of them have a fault: the first one's.
    """
    read_before = {name for name, digest in manifest.identity.cases.items() if digest}
    broken: dict[str, UserError] = {}
    found = NewCases({}, {})
    for case in cases:
        if case.name not in read_before:
            try:
                if notes := read_once(case, model, background):
                    found.notes[case.name] = notes
            except UserError as error:
                broken[case.name] = error
    if len(broken) == len(cases):
        raise next(iter(broken.values()))
    found.faults.update({name: str(error) for name, error in broken.items()})
    return found


def read_once(case: CaseFiles, model: Model, background: Background) -> tuple[str, ...]:
    """Read a case, so that its faults are told, and print what is doubtful about it.

    Args:
        case: to read.
        model: any of the models.
        background: what decides over the image's region.

    Returns:
        What is doubtful, a clause each.

    Raises:
        UserError: it has a fault.
    """
    with quiet():
        loaded = model.read(case)
    check_stored(case)
    notes = loaded.notes
    if (padding := background.region(loaded.image).guessed) is not None:
        notes += (
            f"{padding:g} lies far below all other values, and is taken for padding (a guess: call the channel CT in "
            f"dataset.json if it is one, or take --background perturb if it is none)",
        )
    for note in notes:
        warn(f"{case.title}: {note}")
    return notes


def _digest(case: CaseFiles, channels: int) -> str | None:
    try:
        return sha256_of_case(case, channels)
    except OSError:
        return None
