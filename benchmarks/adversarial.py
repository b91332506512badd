"""What `_adv` makes of the time of a training iteration: the figures in docs/trainers.md.

    python benchmarks/adversarial.py -d 501 -c 2d -tr nnUNetTrainer_st5 [-n 8]

The dataset must be preprocessed. The time is that of `train_step` on a batch from nnU-Net's own loader, in seconds of
this process on one thread of the CPU (not of the clock: other processes matter less). With and without take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from nnunet_robust.common.folders import dataset_name
from nnunet_robust.trainers import trainer_class


def begun(name: str, folder: Path, configuration: str) -> Any:
    """A trainer as it is when its first epoch begins."""
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    trainer: Any = trainer_class(name)(
        plans={**plans, "continue_training": False},
        configuration=configuration,
        fold=0,
        dataset_json=json.loads((folder / "dataset.json").read_text()),
        device=torch.device("cpu"),
    )
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    return trainer


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="dataset")
    parser.add_argument("-c", required=True, help="configuration")
    parser.add_argument("-tr", default="nnUNetTrainer", help="trainer, with options but for _adv and _seed")
    parser.add_argument("-n", type=int, default=8, help="iterations of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - nnU-Net's own name
    folder = Path(os.environ["nnUNet_preprocessed"], dataset_name(arguments.d))  # noqa: SIM112

    with tempfile.TemporaryDirectory() as results, contextlib.redirect_stdout(io.StringIO()):
        os.environ["nnUNet_results"] = results  # noqa: SIM112 - a trainer makes its folder and log when it is made
        names = [f"{arguments.tr}{more}_seed1" for more in ("", "_adv")]
        trainers = [begun(name, folder, arguments.c) for name in names]
        batch = next(trainers[0].get_dataloaders()[0])
        seconds: list[list[float]] = [[], []]
        for iteration in range(arguments.n + 1):
            for trainer, found in zip(trainers, seconds, strict=True):
                given, start = copy.deepcopy(batch), time.process_time()
                trainer.train_step(given)
                if iteration > 0:  # the first one warms up
                    found.append(time.process_time() - start)
    without, with_attacks = map(statistics.median, seconds)
    shape = "x".join(map(str, batch["data"].shape))
    print(
        f"{folder.name} {arguments.c} {names[1]}, batch {shape}: {without:.3f} s without, {with_attacks:.3f} s with, "
        f"{with_attacks / without:.2f} times; medians of {arguments.n} iterations"
    )


if __name__ == "__main__":
    main()
