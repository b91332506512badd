"""Series of test sets beside a training set: one folder for each level, and the `series.csv` that names them.

    series.csv                               perturbation,level,images,labels,unit
    series/<perturbation>_<level>/images     <case>_0000<ending>, ...
    series/<perturbation>_<level>/labels     <case><ending>

`nnunet-robust sweep --series series.csv` reads it; see `nnunet_robust.eval.sweep.series`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.writer import Case, write_cases

SERIES_FILE = "series.csv"
COLUMNS = ("perturbation", "level", "images", "labels", "unit")


@dataclass(frozen=True, eq=False)
class SeriesSet:
    """One test set of a series.

    Attributes:
        perturbation: what changes along the series: letters, digits and `_`.
        level: how much, in `unit`.
        unit: for axes of plots.
        cases: of this set; a name that comes back at another level is the same case there, and is compared with itself.
    """

    perturbation: str
    level: float
    unit: str
    cases: Iterable[Case]


def series_writer(
    test_sets: Sequence[SeriesSet], *, label_values: Sequence[int], file_ending: str, num_channels: int = 1
) -> Callable[[Path], None] | None:
    """Make what writes a series into a dataset's folder: the argument `beside` of `writer.write_dataset`.

    Args:
        test_sets: in the order of `series.csv`; their cases are consumed one at a time.
        label_values: 0 and the values of the dataset's labels.
        file_ending: as the dataset's.
        num_channels: as the dataset's.

    Returns:
        A function of the folder; None where there are no test sets.
    """
    if not test_sets:
        return None

    def write(folder: Path) -> None:
        rows = []
        for test_set in test_sets:
            relative = Path("series", f"{test_set.perturbation}_{test_set.level:g}")
            (folder / relative).mkdir(parents=True)
            write_cases(folder / relative, "", test_set.cases, set(), num_channels, label_values, file_ending)
            images, labels = ((relative / name).as_posix() for name in ("images", "labels"))
            rows.append((test_set.perturbation, f"{test_set.level:g}", images, labels, test_set.unit))
        with (folder / SERIES_FILE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)

    return write


def check_levels(levels: Sequence[float], low: float, high: float, option: str, test_cases: int) -> None:
    """Refuse the levels of a series that cannot be made.

    Raises:
        UserError: a level outside of [low, high], one that is there twice (to six digits, as in the folders' names), or
            no test cases to make.
    """
    for level in levels:
        if not low <= level <= high:
            raise UserError(f"{option} must be in [{low:g}, {high:g}], got {level:g}")
    names = [f"{level:g}" for level in levels]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{option} names {twice[0]} twice: give each level once")
    if levels and not test_cases:
        raise UserError(f"{option} makes test sets, and there are 0 test cases: give --test-cases")
