"""A slider over the level, with image, ground truth and every model's prediction."""

from __future__ import annotations

from typing import Any

from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.section import Parts, Section
from nnunet_robust.eval.report.shared.viewer import viewer_data


def _content(analysis: Analysis, _: Parts) -> dict[str, Any]:
    return {"viewer": viewer_data(analysis.sweeps)}


SECTION = Section(name="pictures", short="Pictures", content=_content, template="pictures")
