"""The sweep's output folder: tidy tables, kept a finished prediction at a time, so that nothing is lost or done twice.

manifest.json                             what was run, with what, on what
parts/<model>/<perturbation>/<case>.csv   a row per condition and label
parts/inputs/<perturbation>/<case>.csv    a row per condition
parts/reliability/<model>/...             a row per condition and label, where members were told apart
parts/bounds/<model>/...                  the same, where the model was calibrated
parts/attacks/<model>/...                 a row per condition that is an attack on the model that predicts, in place of
                                          the row in inputs: every model has an image of its own
results.csv, inputs.csv, reliability.csv, bounds.csv, attacks.csv   the parts put together, sorted
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import itertools
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_robust.common.console import warn
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import atomic_file, flush_all, make_folder
from nnunet_robust.eval.results.tables import TABLES, Condition, ResultTable


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Tell whether an error means that nothing more can be written; not every library passes on the system's own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return isinstance(error, (OSError, RuntimeError)) and shutil.disk_usage(folder).free < 1 << 16


class Part:
    """The rows of one file under `parts/`, by condition. Rows are appended; one process at a time may do so.

    The file has one column more, `rows`: how many rows the condition has. A condition that lacks some, because the
    process was killed while it wrote, is not there, and is written over. Rows are on the disk after `flush`: a power
    cut before that may leave zeros or nothing in their place, which is not there either, nor is what follows it.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns
        self.rows: dict[Condition, list[dict[str, str]]] = {}
        self._lock = threading.Lock()
        self._length = 0
        self._unflushed = False
        if path.is_file():
            self._read()

    def add(self, condition: Condition, rows: Iterable[Mapping[str, Any]]) -> None:
        """Store the finished rows of a condition. Threads may do so at once."""
        fixed = {"perturbation": condition.perturbation, "level": condition.level, "replicate": condition.replicate}
        added = [{name: str({**row, **fixed}[name]) for name in self.columns} for row in rows]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        with self._lock:
            if self._length == 0:
                writer.writerow([*self.columns, "rows"])
            writer.writerows([*row.values(), len(added)] for row in added)
            self._append(text.getvalue().encode())
            self.rows[condition] = added

    def in_order(self) -> Iterator[dict[str, str]]:
        """Yield all rows, sorted by condition."""
        for condition in sorted(self.rows):
            yield from self.rows[condition]

    @staticmethod
    def flush(parts: Iterable[Part]) -> None:
        """Make sure that the rows of parts are on the disk, all at once: a disk takes long for each time."""
        written = [part for part in parts if part._unflushed]
        flush_all({part.path for part in written})
        flush_all({part.path.parent for part in written})
        for part in written:
            part._unflushed = False

    def _append(self, data: bytes) -> None:
        make_folder(self.path.parent)
        self._unflushed = True
        try:
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(self._length)
                file.seek(self._length)
                file.write(data)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._length)
            raise
        self._length += len(data)

    def _read(self) -> None:
        with self.path.open("rb") as file:
            header = file.readline()
            if not header.endswith(b"\n") or b"\0" in header:  # a power cut leaves zeros
                return None
            if _cells(header) != [*self.columns, "rows"]:
                raise UserError(
                    f"{self.path} has columns of another version of this package, or was changed: take a new output "
                    f"folder, or delete the file to have it computed again"
                )
            self._length = len(header)
            lines = file.readlines()
        group: list[dict[str, str]] = []
        position = self._length
        for number, line in enumerate(lines, 1):
            position += len(line)
            *values, count = _cells(line)
            if not line.endswith(b"\n") or len(values) != len(self.columns) or not count.isdecimal():
                return self._tell_of_damage(number, len(lines))
            group.append(dict(zip(self.columns, values, strict=True)))
            if str(len(group)) == count:
                try:
                    condition = _condition(group[0])
                except ValueError:
                    return self._tell_of_damage(number, len(lines))
                self.rows[condition], group, self._length = group, [], position
        return None

    def _tell_of_damage(self, number: int, last: int) -> None:
        """A kill cuts off the last line; a fault before that was made by somebody else."""
        if number < last:
            warn(f"{self.path}, line {number + 1}: this is no row of a sweep: it and what follows is computed again")


def _cells(line: bytes) -> list[str]:
    if b"\0" in line:
        return [""]
    try:
        return next(csv.reader([line.decode(errors="replace")]), None) or [""]  # an empty line has no cell
    except csv.Error:
        return [""]


def _condition(row: Mapping[str, str]) -> Condition:
    return Condition(row["perturbation"], float(row["level"]), int(row["replicate"]))


def open_part(table: ResultTable, output: Path, key: str, perturbation: str, case: str) -> Part:
    """Open the rows of a table of a case under a perturbation, see `ResultTable.part_file`."""
    return Part(table.part_file(output, key, perturbation, case), table.columns)


def combine(parts: Iterable[Part], columns: tuple[str, ...], target: Path) -> None:
    """Put parts together into one table, in their order, a part at a time."""
    with atomic_file(target) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for part in parts:
            writer.writerows(part.in_order())


def combine_tables(output: Path, arms: Sequence[str], cases: Sequence[str], perturbations: Sequence[str]) -> None:
    """Put together all tables of an output folder.

    Args:
        output: the folder.
        arms: keys of its arms, in the order in which the tables have them.
        cases: names of its cases, likewise.
        perturbations: their names, likewise.
    """
    for table in TABLES:
        if table.optional and not table.folder(output).is_dir():
            continue
        places = itertools.product(arms if table.per_arm else [""], cases, perturbations)
        parts = (open_part(table, output, key, perturbation, case) for key, case, perturbation in places)
        combine(parts, table.columns, table.file(output))
