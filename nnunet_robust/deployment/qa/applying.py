"""`nnunet-robust apply`: masks, maps and ratings of new images, as files."""

from __future__ import annotations

import csv
import io
import json
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_robust.common.digest import sha256
from nnunet_robust.common.files import make_folder, write_atomically
from nnunet_robust.deployment.qa.assess import Assessment, Assessor, colour_of
from nnunet_robust.deployment.qa.limits import described
from nnunet_robust.eval.conformal.calibration import Calibration
from nnunet_robust.eval.images.image_files import ImageFiles
from nnunet_robust.eval.images.maps import ENDING, write_map
from nnunet_robust.eval.results.tables import score_columns

COLUMNS = (
    "case", "structure", "colour", "reasons",
    "dice_low", "dice_high", "inner", "segmentation", "outer", "unit", "outer_not_inner",
    "n_members", "entropy_bits", "mutual_information_bits", "predicted_dice", "pairwise_dice", "soft_dice",
)  # fmt: skip

Track = Callable[[Sequence[ImageFiles]], Iterable[ImageFiles]]


def apply_calibration(
    assessor: Assessor,
    calibration: Calibration,
    calibration_file: Path,
    images: Sequence[ImageFiles],
    output: Path,
    *,
    kind: str,
    maps: bool,
    track: Track,
) -> list[Assessment]:
    """Assess images and write what was found.

    Args:
        assessor: of the calibrated model.
        calibration: that it goes by.
        calibration_file: where that was read from.
        images: new ones.
        output: folder; files of the same names are written over.
        kind: what the masks are made with, for the manifest.
        maps: write the entropy, mutual information and probabilities, too.
        track: wraps the images that are gone through, for a progress bar.

    Returns:
        The assessments of images that could not be predicted.
    """
    make_folder(output)
    (output / "ratings.csv").unlink(missing_ok=True)  # of an earlier run: not to stand beside new masks
    rows: list[dict[str, Any]] = []
    failed = []
    for files in track(images):
        found = assessor.assess(files)
        _write_masks(output, found, assessor, maps)
        rows += rating_rows(found)
        if found.predicted is None:
            failed.append(found)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "reasons": "; ".join(row["reasons"])} for row in rows)
    write_atomically(output / "ratings.csv", text.getvalue())
    manifest = {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "model": calibration.model,
        "calibration": {"sha256": sha256(calibration_file), **calibration.described()},
        "kind": kind,
        "limits": described(assessor.rules),
        "images": {files.name: [sha256(path) for path in files.images] for files in images},
        "ratings": rows,
    }
    write_atomically(
        output / "ratings.json", json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )
    return failed


_PACKAGES = ("nnunet-robust", "nnunetv2", "torch", "numpy", "scipy")


def rating_rows(found: Assessment) -> list[dict[str, Any]]:
    """Make a row for each structure of a case, or one for a case without a prediction; empty: there is no number."""
    if found.predicted is None:
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        return [{**row, "case": found.case, "colour": colour_of(found), "reasons": list(found.reasons)}]
    rows = []
    for name, finding in found.findings.items():
        rows.append(
            {
                "case": found.case,
                "structure": name,
                "colour": finding.rating.colour,
                "reasons": list(finding.rating.reasons),
                **finding.evidence.columns(),
                **score_columns(found.predicted.scores[name], found.predicted.maps.n_members),
            }
        )
    return rows


def _write_masks(output: Path, found: Assessment, assessor: Assessor, maps: bool) -> None:
    """Write a case's files; those that an earlier run left, and this one does not make, are removed."""
    predicted = found.predicted
    files: dict[str, Any] = dict.fromkeys(("segmentation", "entropy", "mutual_information"))
    if predicted is not None:
        files["segmentation"] = predicted.segmentation
        if maps:
            files["entropy"], files["mutual_information"] = predicted.maps.entropy, predicted.maps.mutual_information
    for structure, name in file_names(list(assessor.structures)).items():
        finding = found.findings.get(structure)
        files[f"inner_{name}"] = finding.inner if finding else None
        files[f"outer_{name}"] = finding.outer if finding else None
        files[f"probability_{name}"] = predicted.probability(structure) if predicted and maps else None
    for name, array in files.items():
        path = output / f"{found.case}_{name}{ENDING}"
        if array is None:
            path.unlink(missing_ok=True)
        else:
            write_map(path, array, found.checked.properties)


def file_names(structures: Sequence[str]) -> dict[str, str]:
    """Name each structure as a part of a file's name: letters, digits, and _ for all else; unique, if by a number."""
    named: dict[str, str] = {}
    for number, structure in enumerate(structures, 1):
        name = re.sub(r"[^\w.+-]", "_", structure)
        named[structure] = f"{name}_{number}" if name.lower() in {n.lower() for n in named.values()} else name
    return named
