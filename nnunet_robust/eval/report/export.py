"""The report's figures, their data, its tables and its pictures as files, for papers and talks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.files import make_folder, write_atomically
from nnunet_robust.eval.report.frames import frames
from nnunet_robust.eval.report.sections import report_figures, report_tables
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.panels import with_legend
from nnunet_robust.eval.report.videos import VIDEOS, check_encoders, report_videos, write_video
from nnunet_robust.eval.report.workbook import workbook
from nnunet_robust.pages import plots
from nnunet_robust.pages.tables import csv_text, latex

PICTURES = ("pdf", "png")
PAGES = ("html", "json")
"""Beside the folder of figures, not in it."""

FORMATS = (*PAGES, *PICTURES, "csv", "tex", "xlsx", *VIDEOS)
_DPI = 300


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that there is not, or that nothing here can write.

    Raises:
        UserError: naming the first one, or what to install.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(f"--format {unknown[0]} is none of {', '.join(FORMATS)}: give one or several of them.")
    check_encoders(formats)


def write_files(
    analysis: Analysis,
    folder: Path,
    formats: Sequence[str],
    track: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[Path]:
    """Write every figure, its data, the tables and videos; the same files give the same bytes.

    Args:
        analysis: see `analyse`.
        folder: made where it is not there.
        formats: of `FORMATS`: "pdf" and "png" (300 dpi) of figures, each with its own legend; "csv" of figures and
            tables; "tex", the tables in LaTeX; "xlsx", all of them in one workbook; "gif" and "mp4", the
            stored pictures of each case and perturbation under rising level. `PAGES` are not written here.
        track: wraps the videos, to show progress.

    Returns:
        The files, in the report's order.

    Raises:
        UserError: as for `check_formats`; videos of sweeps that stored no pictures, before anything is written.
    """
    check_formats(formats)
    videos = report_videos(analysis) if set(formats) & set(VIDEOS) else {}
    make_folder(folder)
    written = []
    with plots.plain_style():
        for figure in report_figures(analysis):
            drawn = with_legend(figure.draw(), figure.styles) if set(formats) & set(PICTURES) else None
            for name in (name for name in PICTURES if name in formats):
                picture = io.BytesIO()
                assert drawn is not None
                no_date = (
                    {"CreationDate": None, "Creator": None, "Producer": None} if name == "pdf" else {"Software": None}
                )
                drawn.savefig(picture, format=name, dpi=_DPI, bbox_inches="tight", metadata=no_date)
                written.append(_write(folder / f"{figure.name}.{name}", picture.getvalue()))
            if "csv" in formats:
                written.append(_write(folder / f"{figure.name}.csv", csv_text(figure.data).encode()))
    for table in report_tables(analysis):
        if "csv" in formats:
            written.append(_write(folder / f"table_{table.name}.csv", csv_text(table.data).encode()))
        if "tex" in formats:
            write_atomically(folder / f"table_{table.name}.tex", latex(table))
            written.append(folder / f"table_{table.name}.tex")
    if "xlsx" in formats:
        written.append(_write(folder / "tables.xlsx", workbook(analysis)))
    for name, video in track(list(videos.items())):
        shown = list(frames(video))
        written += [write_video(shown, folder / f"{name}.{ending}") for ending in VIDEOS if ending in formats]
    return written


def _write(path: Path, content: bytes) -> Path:
    write_atomically(path, content)
    return path
