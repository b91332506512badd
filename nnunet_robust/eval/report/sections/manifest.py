"""What was run, with which versions and parameters."""

from __future__ import annotations

import json
from typing import Any

from nnunet_robust.eval.report.shared.analysis import Analysis
from nnunet_robust.eval.report.shared.section import Parts, Section


def _content(analysis: Analysis, _: Parts) -> dict[str, Any]:
    return {
        "manifests": [
            (", ".join(sweep.datasets), json.dumps(sweep.manifest.to_json(), indent=2, ensure_ascii=False))
            for sweep in analysis.sweeps
        ]
    }


SECTION = Section(name="manifest", short="About", content=_content, template="manifest")
