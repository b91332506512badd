"""Sweeps' output folders -> `report.html`, one self-contained page, and files for papers. Reads files only.

`sections/` has a module for each section of the page, with its statistics, figures, tables and sentences, and the
registry of them. `page` makes the page of these, `export` the files (`workbook` the tables in one, `frames` and
`videos` the pictures); `compare` compares two sweeps of one dataset.
`shared/` is what sections build on: `read` has the sweeps, `analysis` what several sections compute of them, `section`
and `figures` say what a section and a figure are, `panels` and `heat_maps` draw, `viewer` has the pictures.
"""

from __future__ import annotations

from pathlib import Path

from nnunet_robust.eval.report.page import write_page
from nnunet_robust.eval.report.shared.analysis import MARGIN, Analysis, analyse
from nnunet_robust.eval.report.shared.answer import printed_answer

__all__ = ["MARGIN", "Analysis", "analyse", "printed_answer", "write_page", "write_report"]


def write_report(*folders: Path, target: Path | None = None, margin: float = MARGIN) -> Path:
    """Write `report.html`; the same files give the same bytes.

    Args:
        folders: of sweeps, of different datasets: each holds `results.csv` and `manifest.json`; `inputs.csv` and
            `pictures/` are used where they are there.
        target: the folder for the page; by default that of the first sweep.
        margin: differences of Dice up to this do not matter, in [0, 1).

    Returns:
        The page's path. It needs neither a network nor other files.

    Raises:
        UserError: a folder lacks a file, a file is broken, nothing in it can be compared, or two folders hold the same
            dataset.
    """
    analysis = analyse(folders, margin)
    return write_page(analysis, (target or folders[0]) / "report.html")
