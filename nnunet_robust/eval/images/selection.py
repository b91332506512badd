"""The selection of cases: what the user named, and the files that it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.cases import CaseFiles, cases_of_dataset, cases_of_folders, drawn_by_experts


@dataclass(frozen=True, kw_only=True)
class CaseSelection:
    """What the user named: images, and what they are compared with.

    Attributes:
        images: folder of images; None takes the dataset's test cases or the fold's validation cases.
        labels: folder of their labels; several, of experts who have each drawn all cases.
        reference: of several, what the metrics compare with: a key of `cases.REFERENCES`.
    """

    images: Path | None = None
    labels: Sequence[Path] = ()
    reference: str = "first"


def cases_of(
    selection: CaseSelection, dataset: str | None, fold: str, file_ending: str, channels: int
) -> list[CaseFiles]:
    """List the cases that a selection comes to; files may be missing.

    Args:
        selection: what the user named.
        dataset: full name, for the dataset's own cases.
        fold: of the model, whose validation cases are taken where the dataset has no test cases.
        file_ending: of the images and labels.
        channels: how many the images have.

    Raises:
        UserError: images without labels or the reverse, a reference without several experts, or no images at all.
    """
    if (selection.images is None) == bool(selection.labels):
        raise UserError("images (-i) and labels (-l) go together: give both or neither")
    several = len(selection.labels) > 1
    if selection.reference != "first" and not several:
        raise UserError(f"--reference {selection.reference} is of several experts: give a folder of each with -l")
    if selection.images is not None:
        first = selection.labels[0]
        cases = cases_of_folders(selection.images, first, file_ending, channels, complete=False)
        return drawn_by_experts(cases, selection.labels, selection.reference) if several else cases
    if dataset is None:
        raise UserError("no images: give a dataset with -d, or folders with -i and -l")
    return cases_of_dataset(dataset, fold, file_ending, channels)
