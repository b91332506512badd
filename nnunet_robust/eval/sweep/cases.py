"""The cases of a sweep, those of its folders and those of series: found, digested, and read once before all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_robust.common.console import quiet
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.cases import CaseFiles, sha256_of_case
from nnunet_robust.eval.images.image_files import check_stored
from nnunet_robust.eval.images.regions import Background
from nnunet_robust.eval.images.selection import cases_of
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.selection import interface
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
    def patients(self) -> dict[str, str]:
        """Case -> its patient."""
        every = [*self.own, *(case for of_set in self.series for case in of_set.cases)]
        return {case.name: case.patient for case in every}


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
    return SweepCases(cases, {case.name: _digest(case) for case in cases}, series)


def read_new_cases(
    cases: Sequence[CaseFiles], manifest: Manifest, model: Model, background: Background
) -> tuple[dict[str, str], dict[str, float]]:
    """Read every case that no earlier run has read, so that faults are told before anything is computed.

    Args:
        cases: of the sweep's folders.
        manifest: of the output folder.
        model: any of the models.
        background: what decides over the images' regions.

    Returns:
        Case -> what is wrong with it, and case -> the value of its padding, where that was guessed.

    Raises:
        UserError: all of them have a fault: the first one's.
    """
    read_before = {name for name, digest in manifest.identity.cases.items() if digest}
    broken: dict[str, UserError] = {}
    guessed: dict[str, float] = {}
    for case in cases:
        if case.name not in read_before:
            try:
                padding = background.region(read_once(case, model)).guessed
                if padding is not None:
                    guessed[case.name] = padding
            except UserError as error:
                broken[case.name] = error
    if len(broken) == len(cases):
        raise next(iter(broken.values()))
    return {name: str(error) for name, error in broken.items()}, guessed


def read_once(case: CaseFiles, model: Model) -> NDArray[np.float32]:
    """Read a case, so that its faults are told.

    Returns:
        Its image.

    Raises:
        UserError: it has one.
    """
    with quiet():
        image = model.read(case).image
    check_stored(case)
    return image


def _digest(case: CaseFiles) -> str | None:
    try:
        return sha256_of_case(case)
    except OSError:
        return None
