"""`nnunet-robust qa`: a row per image of a folder, whatever is in it: checks, scores, bounds, a verdict and why."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_robust.common.files import write_atomically
from nnunet_robust.deployment.qa.assess import Assessment, Assessor
from nnunet_robust.deployment.qa.input_checks import VERDICTS, Verdict, worst
from nnunet_robust.deployment.qa.qa_picture import Picture, picture_of
from nnunet_robust.eval.images.image_files import ImageFiles
from nnunet_robust.eval.results.tables import score_columns

SYMBOLS: dict[Verdict, str] = {"accept": "✓", "review": "?", "reject": "✗"}
"""Beside a verdict's word, so that it is seen at a glance."""


@dataclass(frozen=True)
class Row:
    """An assessed image, as the table and the page show it.

    Attributes:
        case: its name.
        verdict: accept, review or reject.
        reasons: for it, the gravest first.
        checks: name -> the strictest verdict of the checks of this name.
        image: what was measured of the image: noise_sigma, blur; empty where it was not.
        structures: structure -> what was measured of it; empty where nothing was predicted.
        picture: a slice of the image with outlines; None where it cannot be read.
    """

    case: str
    verdict: Verdict
    reasons: tuple[str, ...]
    checks: dict[str, Verdict]
    image: dict[str, Any]
    structures: dict[str, dict[str, Any]]
    picture: Picture | None


def assess_folder(
    assessor: Assessor, images: Sequence[ImageFiles], track: Callable[[Sequence[ImageFiles]], Iterable[ImageFiles]]
) -> list[Row]:
    """Assess every image of a folder.

    Args:
        assessor: of the model.
        images: of the folder.
        track: wraps the images that are gone through, for a progress bar.

    Returns:
        A row each, the worst first, then by name.
    """
    rows = [_row(assessor.assess(files)) for files in track(images)]
    return sorted(rows, key=lambda row: (-VERDICTS.index(row.verdict), row.case))


def _row(found: Assessment) -> Row:
    checks: dict[str, Verdict] = {}
    for check in found.checks:
        checks[check.name] = worst([checks.get(check.name, "accept"), check.verdict])
    statistics = found.checked.statistics
    image = {name: getattr(statistics, name, None) for name in ("noise_sigma", "blur")}
    return Row(
        found.case,
        found.verdict,
        found.reasons,
        checks,
        {name: "" if value is None else value for name, value in image.items()},
        {name: _measured(found, name) for name in found.findings},
        picture_of(found),
    )


_SCORES = ("predicted_dice", "soft_dice", "entropy_bits", "mutual_information_bits")


def _measured(found: Assessment, name: str) -> dict[str, Any]:
    assert found.predicted is not None
    finding = found.findings[name]
    scores = score_columns(found.predicted.scores[name], found.predicted.maps.n_members)
    return {
        "verdict": finding.rating.verdict,
        **finding.evidence.columns(),
        **{column: scores[column] for column in _SCORES},
    }


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write a row per case: verdict, reasons, every check, and what was measured, structure by structure."""
    checks = list(dict.fromkeys(name for row in rows for name in row.checks))
    structures = {name: list(measured) for row in rows for name, measured in row.structures.items()}
    columns = ["case", "verdict", "reasons", *(f"check: {name}" for name in checks), "noise_sigma", "blur"]
    columns += [f"{name}: {column}" for name, measured in structures.items() for column in measured]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        measured = {f"{name}: {column}": v for name, values in row.structures.items() for column, v in values.items()}
        checked = {f"check: {name}": verdict for name, verdict in row.checks.items()}
        head = {"case": row.case, "verdict": row.verdict, "reasons": "; ".join(row.reasons)}
        writer.writerow({**head, **checked, **row.image, **measured})
    write_atomically(path, text.getvalue())


def counts(rows: Sequence[Row]) -> dict[Verdict, int]:
    """Count the rows of each verdict."""
    return {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
