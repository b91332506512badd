"""What failed or was left out, and why."""

from __future__ import annotations

from typing import Any

from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.section import Parts, Section


def _content(analysis: Analysis, parts: Parts) -> dict[str, Any]:
    return {"sentences": [*(said for sweep in analysis.sweeps for said in sweep.left_out), *parts.left_out]}


SECTION = Section(name="left-out", short="Left out", content=_content, template="left_out")
