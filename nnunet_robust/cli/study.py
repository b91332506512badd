"""The command `nnunet-robust study`. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nnunet_robust.cli.checks import Within
from nnunet_robust.cli.options import FILE, FOLDER, Commands
from nnunet_robust.common.console import show
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.outputs import require_file, require_folder

study = Commands(help="A whole matrix of trainings and sweeps from one YAML.", no_args_is_help=True)

_StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study; `init` writes an example.")]
_of_execution = partial(typer.Option, rich_help_panel="Execution")
_of_cluster = partial(typer.Option, rich_help_panel="Cluster")
_Output = Annotated[
    Path | None,
    typer.Option("-o", help="The study's folder; default: named after the study, beside the YAML."),
    FOLDER,
]


@study.command()
def run(
    file: _StudyFile,
    output: _Output = None,
    executor: Annotated[str, _of_execution(help="local, slurm, or another executor plugin of Snakemake's.")] = "local",
    jobs: Annotated[
        int | None, _of_execution(help="Jobs at once; default: 1 local, else 100."), Within(1, 100_000)
    ] = None,
    gpus: Annotated[
        int, _of_execution(help="GPUs to use at once; without, everything runs on the CPU."), Within(0, 1024)
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    partition: Annotated[str | None, _of_cluster(help="The cluster's partition or queue.")] = None,
    account: Annotated[str | None, _of_cluster(help="The account to charge.")] = None,
    time_limit: Annotated[
        str | None, _of_cluster("--time", help="Limit of trainings and sweeps, as Slurm writes it: 24:00:00.")
    ] = None,
    memory: Annotated[str | None, _of_cluster("--mem", help="Memory of trainings and sweeps: 32G.")] = None,
    gres: Annotated[str | None, _of_cluster(help="What a job with a GPU asks Slurm for: gpu:a100:1.")] = None,
    snakemake: Annotated[str, _of_execution(help="Further arguments for Snakemake, in quotes.")] = "",
) -> None:
    """Run a study, or go on with it: datasets, plans, trainings, sweeps, reports. Exit 1: something failed.

    Example: nnunet-robust study run my_study.yaml --gpus 2
    """
    from nnunet_robust.study.config import load_study
    from nnunet_robust.study.engine import Options, gigabytes_of, hours_of
    from nnunet_robust.study.run import dry_run as tell_only
    from nnunet_robust.study.run import run_study
    from nnunet_robust.study.slurm import refusal

    time_hours = None if time_limit is None else hours_of(time_limit)
    memory_gb = None if memory is None else gigabytes_of(memory)
    options = Options(executor, jobs, gpus, partition, account, time_hours, memory_gb, gres, snakemake)
    loaded = load_study(file)
    root = output or file.parent / loaded.name
    if output is None and not dry_run:
        require_folder("the study's folder", root, "name another with -o")

    def tell(line: str) -> None:
        print(line, flush=True)

    if dry_run:
        for job in tell_only(loaded, root, options, tell):
            print(f"  {job}")
        return
    result = run_study(loaded, root, options, tell)
    for page in result.reports:
        print(f"report: {page}")
    if result.failures:
        print(f"{len(result.failures)} jobs failed: see {root / 'study_failures.csv'}; the same command tries again")
    if result.unfinished:
        print(f"{len(result.unfinished)} jobs are not finished ({result.unfinished[0]}, ...): see {result.log}")
        if why := refusal(result.log):
            print(f"Slurm refuses jobs: {why}")
    if not result.succeeded:
        raise typer.Exit(1)


@study.command()
def status(
    where: Annotated[Path, typer.Argument(metavar="FOLDER", help="The study's folder, or its YAML.")],
    once: Annotated[bool, typer.Option("--once", help="Print it once, for scripts; otherwise until Ctrl-C.")] = False,
) -> None:
    """What a study is at: done, running, waiting, failed, hours spent and expected. Exit 1: something failed.

    Example: nnunet-robust study status my_study --once
    """
    from rich.live import Live

    from nnunet_robust.study.status import read_status, render

    root = where
    if where.is_file():
        from nnunet_robust.study.config import load_study

        root = where.parent / load_study(where).name
    found = read_status(root)
    if once or not sys.stdout.isatty():
        show(render(found, root))
    else:
        with Live(render(found, root), auto_refresh=False) as live:
            while not found.finished:
                time.sleep(2)
                found = read_status(root)
                live.update(render(found, root), refresh=True)
    if found.failed:
        raise typer.Exit(1)


@study.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="skip-connections, context, clinical or smoke.")],
    output: Annotated[Path | None, typer.Option("-o", help="The file; default: NAME.yaml."), FILE] = None,
) -> None:
    """Write a commented example of a study.yaml.

    Example: nnunet-robust study init skip-connections
    """
    from nnunet_robust.common.files import write_atomically
    from nnunet_robust.common.schemas import suggestion
    from nnunet_robust.study.examples import EXAMPLES, example

    if name not in EXAMPLES:
        raise UserError(f"there is no example {name!r}: {suggestion(name, EXAMPLES)}")
    path = output or Path(f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path} exists: give another name with -o")
    if output is None:
        require_file("the example", path, "name another file with -o")
    write_atomically(path, example(name).read_bytes())
    print(f"{path}: {EXAMPLES[name]}\nnext: nnunet-robust study run {path} --dry-run")


@study.command(hidden=True)
def stage(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    job: Annotated[str, typer.Argument(help="One of its jobs.")],
) -> None:
    """Do one job of a study: what Snakemake starts."""
    from nnunet_robust.study.job import run_job

    raise typer.Exit(run_job(folder, job))
