"""Trainers that meet what happens on clusters, in a folder that nnU-Net is told of (`nnUNet_extTrainer`).

The folder `STUDY_TEST_GATES` says when; without that variable nothing stalls. What imports this has threads where
nnU-Net would start processes: each takes seconds to import torch. Trainings with those are in test_run.py.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

from nnunet_robust.trainers import trainer_class

GATES = os.environ.get("STUDY_TEST_GATES")

multiprocessing.get_context = lambda method=None: SimpleNamespace(Pool=ThreadPool)  # type: ignore[assignment]


class StallingTrainer(trainer_class("nnUNetTrainer_st3_bs2_2epochs_4iters_seed1")):
    """Stalls after its first epoch until it is killed; begun again, it waits there for the file `go`."""

    def on_epoch_start(self) -> None:
        if GATES and self.current_epoch == 1:
            stalled, resumed, go = (Path(GATES, name) for name in ("stalled", "resumed", "go"))
            if not stalled.exists():
                stalled.touch()
                time.sleep(3600)
            resumed.touch()
            while not go.exists():
                time.sleep(0.2)
        super().on_epoch_start()

    def on_epoch_end(self) -> None:
        self.save_every = 1
        super().on_epoch_end()


class FailingTrainer(trainer_class("nnUNetTrainer_st3_bs2_1epochs_4iters_seed1")):
    """Fails whenever it is begun."""

    def on_train_start(self) -> None:
        raise RuntimeError("this trainer always fails")
