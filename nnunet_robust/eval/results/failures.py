"""What could not be computed, and why: kept beside the results, gone when it succeeds."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from nnunet_robust.common.csv_files import read_csv
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.files import atomic_file

FAILURES = "failures.csv"
MISSING = "missing.txt"
"""A file in a sweep's folder in which whoever had it made says, a line each, what it lacks, and why."""


@dataclass(frozen=True, order=True)
class Failure:
    """A row of `failures.csv`; what is empty means all.

    Attributes:
        case: name of the case.
        perturbation: its name.
        level: its level, as text.
        model: key of the model.
        reason: one line.
    """

    case: str
    perturbation: str
    level: str
    model: str
    reason: str

    def __str__(self) -> str:
        where = " ".join(filter(None, (self.perturbation, self.level)))
        return ", ".join(filter(None, (self.case, where, self.model))) + f": {self.reason}"


_COLUMNS = tuple(field.name for field in fields(Failure))


def reason(error: BaseException) -> str:
    """Write an error in one line."""
    text = one_line(error)
    return text if type(error).__name__ == "UserError" else f"{type(error).__name__}: {text}"


def recorded(output: Path, case: str, perturbation: str) -> bool:
    """Tell whether something of a case failed under a perturbation ("": under any, as it cannot be read)."""
    return _part(output, case, perturbation).is_file()


def record(output: Path, case: str, perturbation: str, failures: Iterable[Failure]) -> None:
    """Say what failed of a case under a perturbation; nothing, where all went well."""
    path = _part(output, case, perturbation)
    found = sorted(set(failures))
    if found:
        _write(path, found)
    else:
        path.unlink(missing_ok=True)


def combine_failures(output: Path) -> list[Failure]:
    """Write `failures.csv`, or remove it where there are none.

    Returns:
        What it holds.
    """
    found: list[Failure] = []
    for path in (output / "parts" / "failures").glob("*/*.csv"):
        found += _read(path)
    target = output / FAILURES
    if found:
        _write(target, sorted(found))
    else:
        target.unlink(missing_ok=True)
    return sorted(found)


def read_failures(output: Path) -> list[Failure]:
    """Read the failures in a sweep's folder; none where there is no `failures.csv`."""
    return _read(output / FAILURES)


def _part(output: Path, case: str, perturbation: str) -> Path:
    return output / "parts" / "failures" / (perturbation or "_") / f"{case}.csv"  # no perturbation is called _


def _read(path: Path) -> list[Failure]:
    try:
        rows = read_csv(path, _COLUMNS, "delete it, and run the sweep again")
    except UserError:
        if path.exists():
            raise
        return []  # nothing has failed, or another process has just succeeded
    return [Failure(**{name: row.cells[name] for name in _COLUMNS}) for row in rows]


def _write(path: Path, failures: Iterable[Failure]) -> None:
    with atomic_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(astuple(failure) for failure in failures)
