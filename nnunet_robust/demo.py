"""The whole way on textures: datasets, nnU-Net's own trainings, a sweep and a report, on a CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nnunet_robust.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


class Dataset(NamedTuple):
    """A texture dataset of the demo."""

    id: int
    alpha: float
    title: str


DATASETS = (
    Dataset(501, 0.1, "easy: the textures differ"),
    Dataset(502, 0.8, "hard: the foreground is 80 % background"),
)
TRAINERS = ("nnUNetTrainer", "nnUNetTrainerNoSkip")
OPTIONS = "_st5_2epochs_100iters_seed1"
QUICK_OPTIONS = "_st5_1epochs_5iters_seed1"
CONDITIONS: dict[str, tuple[float, ...]] = {
    "speckle_noise": (0.15, 0.3, 0.45, 0.6),
    "gaussian_blur": (0.5, 1.0, 2.0, 3.0),
}


def run_demo(output: Path, quick: bool) -> Iterator[tuple[pd.DataFrame, Path]]:
    """Run the demo; steps that are done are passed over, so that a second run goes on or shows the same.

    Args:
        output: everything is written below it.
        quick: a few iterations and cases, to see that it runs.

    Yields:
        The summary table and the report's path, a dataset at a time.

    Raises:
        UserError: a command of nnU-Net's failed; names its log.
    """
    output = output.resolve()
    folders = {name: output / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    # Starting more processes costs longer than such small cases take.
    os.environ["nnUNet_def_n_proc"] = "1"  # noqa: SIM112 - nnU-Net's spelling
    trainers = [trainer + (QUICK_OPTIONS if quick else OPTIONS) for trainer in TRAINERS]

    names = _synthesize(output / "nnUNet_raw")
    planned = output / "logs" / "plan.done"  # nnU-Net writes no mark of its own
    if not planned.is_file():
        ids = [str(dataset.id) for dataset in DATASETS]
        _nnunet("nnUNetv2_plan_and_preprocess", ["-d", *ids, "-c", "2d", "-np", "1", "-npfp", "1"], output, "plan")
        planned.touch()
    for dataset in DATASETS:
        for trainer in trainers:
            _train(dataset, trainer, output)
    for dataset in DATASETS:
        print(f"\n{names[dataset.id]}, {dataset.title}", flush=True)
        yield _sweep(dataset, trainers, output, quick)


def _synthesize(raw: Path) -> dict[int, str]:
    from nnunet_robust.dataset_conversion.textures import TextureParameters, synthesize_textures

    return {
        dataset.id: synthesize_textures(
            raw, dataset.id, TextureParameters(alpha=dataset.alpha, cases=40, test_cases=12)
        ).name
        for dataset in DATASETS
    }


def _train(dataset: Dataset, trainer: str, output: Path) -> None:
    done = f"Dataset{dataset.id}_*/{trainer}__nnUNetPlans__2d/fold_0/validation/summary.json"
    if not any((output / "nnUNet_results").glob(done)):
        arguments = [str(dataset.id), "2d", "0", "-tr", trainer, "-device", "cpu", "--c"]
        _nnunet("nnUNetv2_train", arguments, output, f"{dataset.id}_{trainer}", nnUNet_n_proc_DA="0")


def _sweep(dataset: Dataset, trainers: list[str], output: Path, quick: bool) -> tuple[pd.DataFrame, Path]:
    from nnunet_robust.eval.progress import SweepProgress
    from nnunet_robust.eval.report import summary_table, write_report
    from nnunet_robust.eval.sweep import SweepParameters, run_sweep

    parameters = SweepParameters(
        output=output / f"sweep_{dataset.id}{'_quick' if quick else ''}",
        conditions={name: levels[-1:] if quick else levels for name, levels in CONDITIONS.items()},
        dataset=str(dataset.id),
        trainers=trainers,
        folds=["0"],
        mirroring=False,  # a quarter of the time
        device="cpu",
    )
    with SweepProgress() as progress:
        run_sweep(parameters, progress)
    return summary_table(parameters.output), write_report(parameters.output)


def _nnunet(command: str, arguments: list[str], output: Path, log_name: str, **environment: str) -> None:
    """Run one of nnU-Net's own commands, its output in a log file."""
    log = output / "logs" / f"{log_name}.log"
    log.parent.mkdir(exist_ok=True)
    print(f"  {command} {' '.join(arguments)}", flush=True)
    beside = Path(sys.executable).with_name(command)  # the environment's own, also where it is not on PATH
    executable = str(beside) if beside.is_file() else shutil.which(command)
    if executable is None:
        raise UserError(f"{command} is not installed: run nnunet-robust doctor")
    with log.open("w") as file:
        code = subprocess.run(
            [executable, *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            check=False,
        ).returncode
    if code:
        raise UserError(f"{command} failed with exit code {code}: see {log}")
