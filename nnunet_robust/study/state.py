"""What the files in a study's folder hold, as schemas, and how those are read that a job or a driver leaves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nnunet_robust.common import processes
from nnunet_robust.common.console import warn
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.json_files import read_json
from nnunet_robust.study.config import STAGES

_TEXT: Mapping[str, Any] = {"type": "string"}
_FILLED = {"type": "string", "pattern": "[^ ]"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number", "minimum": 0}
_ID = {"type": "string", "pattern": r"^[a-z]+/(?!\.\.?$)[^/\n]+$"}  # it becomes the name of files
_PROCESS = {"type": "integer", "minimum": 1, "maximum": processes.LARGEST}

MARKER: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "job": _TEXT,
        "digest": _TEXT,
        "outcome": _TEXT,
        "reason": _TEXT,
        "seconds": _NUMBER,
        "commands": {"type": "array"},
    },
    "required": ["outcome"],
}
"""The schema of a marker: a job is over, and how it went."""

HOLDER: Mapping[str, Any] = {
    "type": "object",
    "properties": {"host": _FILLED, "pid": _PROCESS, "started": _TEXT, "since": _NUMBER, "executor": _TEXT},
    "required": ["host", "pid", "since"],
}
"""The schema of who is at a job, or runs the study."""

_WHAT: Mapping[str, Mapping[str, Any]] = {
    "dataset": {"dataset": _COUNT},
    "plan": {"dataset": _COUNT},
    "train": {"dataset": _COUNT, **dict.fromkeys(("trainer", "plans", "configuration", "fold"), _TEXT)},
    "sweep": {"output": _TEXT},
    "report": {"sweeps": {"type": "object", "additionalProperties": _TEXT}},
}
_JOB = {
    "type": "object",
    "properties": {
        "id": _ID,
        "stage": {"enum": list(STAGES)},
        "inputs": {"type": "array", "items": _ID},
        "what": {"type": "object"},
        "gpus": _COUNT,
        "cpus": _NUMBER,
        "hours": _NUMBER,
        "memory_gb": _NUMBER,
        "retries": _COUNT,
        "partition": {"type": ["string", "null"]},
    },
    "required": ["id", "stage", "inputs", "what", "gpus", "cpus", "hours", "memory_gb", "retries"],
    "allOf": [
        {
            "if": {"properties": {"stage": {"const": stage}}},
            "then": {"properties": {"what": {"properties": what, "required": list(what)}}},
        }
        for stage, what in _WHAT.items()
    ],
}
ENVIRONMENT: Mapping[str, Any] = {"type": "object", "additionalProperties": _TEXT}
JOBS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "run": _TEXT,
        "executor": _TEXT,
        "gpus": _COUNT,
        "device": {"type": ["string", "null"]},
        "environment": ENVIRONMENT,
        "jobs": {"type": "array", "items": _JOB},
    },
    "required": ["name", "run", "executor", "gpus", "device", "environment", "jobs"],
}
"""The schema of `jobs.json`."""


def read_state(path: Path, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a job or a driver has left.

    Args:
        path: a JSON file.
        schema: of it.

    Returns:
        What it holds; nothing where there is no such file, or it is broken, which is told once.
    """
    try:
        return dict(read_json(path, "it counts as not there", schema))
    except UserError as error:
        if path.exists():
            _tell(str(error))
        return {}


@cache
def _tell(text: str) -> None:
    warn(text)
