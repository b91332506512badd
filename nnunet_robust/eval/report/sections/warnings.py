"""What readers must know before they compare anything: nothing where all is as it should be."""

from __future__ import annotations

from typing import Any

from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.section import Parts, Section


def _content(analysis: Analysis, _: Parts) -> dict[str, Any] | None:
    return {"sentences": analysis.warnings} if analysis.warnings else None


SECTION = Section(name="warnings", short="Warnings", content=_content, template="warnings")
