"""A sweep in a process of its own that notes every prediction it has made, for tests that kill it or run several."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.results.parts import Part
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.eval.sweep.test_sweep import Silent

# Its processes are forked from one that has imported this module and has done nothing else, so that torch's threads
# are each process's own: to import torch and nnU-Net's trainers takes longer than the sweep.
recursive_find_trainer_class_by_name("nnUNetTrainer")
_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])


def start(parameters: SweepParameters, log: Path, beside: int = 1) -> ForkServerProcess:
    """A process that notes its predictions in a log; it waits until so many of them are loaded."""
    process = _SERVER.Process(target=_run, args=(parameters, log, beside, dict(os.environ)))
    process.start()
    return process


def _run(parameters: SweepParameters, log: Path, beside: int, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    precision._SECONDS_PER_TRIAL = 0.01
    add = Part.add

    def noted(self: Part, condition: Any, rows: Any) -> None:
        time.sleep(0.05)
        if "inputs" not in self.path.parts:
            with log.open("a") as file:
                print(self.path.parts[-3:], condition.name, file=file)
        add(self, condition, rows)

    Part.add = noted  # type: ignore[method-assign]
    log.with_suffix(".ready").touch()
    while len(list(log.parent.glob("*.ready"))) < beside:
        time.sleep(0.01)
    run_sweep(parameters, Silent())
