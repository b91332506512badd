"""The sections of a report: a module for each, with its statistics, figures, tables and sentences."""

from __future__ import annotations

import re
from dataclasses import replace

from nnunet_robust.eval.report.sections import (
    architectures,
    attacks,
    calibration,
    context,
    curves,
    degradation,
    denoising,
    experts,
    failures,
    guarantees,
    left_out,
    limits,
    manifest,
    measured,
    pictures,
    ranks,
    statistics,
    structures,
    summary,
    texture,
    uncertainty,
    verdict,
    warnings,
)
from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.figures import ReportFigure
from nnunet_robust.eval.report.shared.section import Section
from nnunet_robust.pages.plots import line_styles
from nnunet_robust.pages.tables import ReportTable

_MODULES = (
    warnings, verdict, curves, structures, texture, context, ranks, degradation, summary, failures, attacks, denoising,
    uncertainty, calibration, guarantees, experts, pictures, statistics, limits, left_out, measured, architectures,
    manifest,
)  # fmt: skip

SECTIONS: tuple[Section, ...] = tuple(module.SECTION for module in _MODULES)
"""Every section, in the order of the page: the page, the exported files and the tests go over these."""


def report_figures(analysis: Analysis) -> list[ReportFigure]:
    """All figures of a report, in its order, without those that have nothing to show."""
    styles = line_styles(analysis.architectures)
    names: dict[str, int] = {}
    unique = []
    for figure in (figure for section in SECTIONS for figure in section.figures(analysis, styles)):
        slug = "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-") for part in (figure.group, figure.name))
        names[slug] = names.get(slug, 0) + 1
        over = analysis.over_structures(figure.dataset) if figure.is_mean else ""
        sample = ", ".join(filter(None, (figure.sample, over)))
        unique.append(replace(figure, name=slug + f"-{names[slug]}" * (names[slug] > 1), sample=sample))
    return unique


def report_tables(analysis: Analysis) -> list[ReportTable]:
    """All tables of a report that have any rows, in its order."""
    return [table for section in SECTIONS for table in section.all_tables(analysis)]


def report_left_out(analysis: Analysis) -> list[str]:
    """What the sections of a report could not show, in sentences."""
    return [sentence for section in SECTIONS for sentence in section.left_out(analysis)]
