"""The whole way on textures: datasets, nnU-Net's own trainings, a sweep and a report, on a CPU: the smallest study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_robust.common.errors import UserError

if TYPE_CHECKING:
    from nnunet_robust.study.config import Study

TITLES = {501: "easy: the textures differ", 502: "hard: the foreground is 80 % background"}


def demo_study(quick: bool = False) -> Study:
    """The study that the demo runs, `nnunet_robust/study/examples/demo.yaml`.

    Args:
        quick: `smoke.yaml` instead: a few iterations and conditions, to see that it runs.
    """
    from nnunet_robust.study.config import load_study
    from nnunet_robust.study.examples import example

    return load_study(example("smoke" if quick else "demo"))


def sweep_folders(study: Study, output: Path) -> dict[int, Path]:
    """Where the demo's sweeps are: by dataset."""
    from nnunet_robust.study.matrix import jobs_of

    sweeps = (job.what for job in jobs_of(study) if job.stage == "sweep")
    return {what["dataset"]: output / what["output"] for what in sweeps}


def run_demo(output: Path, quick: bool) -> Iterator[tuple[list[str], Path]]:
    """Run the demo; steps that are done are passed over, so that a second run goes on or shows the same.

    Args:
        output: everything is written below it.
        quick: a few iterations and conditions, to see that it runs.

    Yields:
        The answer's lines and the report's path, a dataset at a time.

    Raises:
        UserError: a step failed; names its log.
    """
    from nnunet_robust.study.engine import Options
    from nnunet_robust.study.run import run_study

    study = demo_study(quick)
    result = run_study(study, output, Options(), lambda line: print(f"  {line}", flush=True))
    if result.failures:
        first = result.failures[0]
        raise UserError(f"{first['job']} failed: {first['reason']}: see {output / first['log']}")
    if result.unfinished:
        raise UserError(f"{result.unfinished[0]} was not finished: see {result.log}")
    from nnunet_robust.eval.report import analyse, printed_answer

    for dataset, folder in sweep_folders(study, output).items():
        analysis = analyse([folder])
        print(f"\n{analysis.datasets[0]}, {TITLES[dataset]}", flush=True)
        yield printed_answer(analysis), folder / "report.html"
