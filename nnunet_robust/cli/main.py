"""The command `nnunet-robust`: a subcommand per verb. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from nnunet_robust import __version__
from nnunet_robust.cli.datasets import convert, synthesize
from nnunet_robust.cli.denoising import denoising
from nnunet_robust.cli.deployment import care
from nnunet_robust.cli.evaluation import evaluation, print_table
from nnunet_robust.cli.monitor import monitor
from nnunet_robust.cli.study import study
from nnunet_robust.common.console import show
from nnunet_robust.common.errors import UserError

app = typer.Typer(
    help="Which segmentation architecture stays accurate when the images get worse? An extension of nnU-Net v2.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(synthesize, name="synthesize")
app.add_typer(convert, name="convert")
app.add_typer(evaluation)
app.add_typer(care)
app.add_typer(denoising)
app.add_typer(monitor, name="monitor")
app.add_typer(study, name="study")

# The class of all usage errors: newer typers bring a copy of click, in which `click.ClickException` is another class.
_UsageFault: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

# Options that take several values, as nnU-Net's do: `-tr A B` is read as `-tr A -tr B`.
_VARIADIC = (
    "-tr",
    "-f",
    "-m",
    "-l",
    "--ensemble",
    "--uncertainty",
    "--members",
    "--calibration",
    "--denoise",
    "--perturb",
    "--levels",
    "--tile-size",
    "--test-alphas",
    "--test-radii",
    "--size",
    "--format",
)


def _version(value: bool) -> None:
    if value:
        print(f"nnunet-robust {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="A traceback with an error (before the subcommand).")] = False,
) -> None:
    pass


@app.command()
def doctor() -> None:
    """Is everything in place? Versions, the hook, the trainers, the GPU, nnU-Net's folders; a fix for each fault."""
    from rich.table import Table

    from nnunet_robust.cli.doctor import checks

    table = Table("", "check", "found", "fix", title="nnunet-robust doctor")
    found = checks()
    marks = {True: "[green]ok[/]", None: "[yellow]note[/]", False: "[red]FAULT[/]"}
    for check in found:
        table.add_row(marks[check.ok], check.name, check.detail, check.fix or "")
    show(table)
    if any(check.ok is False for check in found):
        raise typer.Exit(1)


@app.command()
def trainers(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Trainers, with options.")] = None,
    dataset: Annotated[str | None, typer.Option("-d", help="Dataset id or name.")] = None,
    configuration: Annotated[str, typer.Option("-c", help="2d, 3d_fullres, 3d_lowres.")] = "2d",
    plans: Annotated[str, typer.Option("-p", help="Plans identifier.")] = "nnUNetPlans",
) -> None:
    """The trainers and the grammar of their names; for names and a dataset, what they change and cost."""
    if names and dataset:
        _print_costs(names, dataset, configuration, plans)
    elif names:
        raise UserError(f"the cost of {names[0]} depends on the plans: name a dataset with -d, a configuration with -c")
    elif dataset:
        raise UserError(f"no trainer named: nnunet-robust trainers NAME [NAME ...] -d {dataset} -c {configuration}")
    else:
        _print_trainers()


def _print_trainers() -> None:
    from rich.table import Table

    from nnunet_robust.trainers import TRAINERS
    from nnunet_robust.trainers.names import RULE

    table = Table("trainer", "what it does", "source")
    for name, trainer in TRAINERS.items():
        table.add_row(name, trainer.summary, trainer.source)
    show(table)
    print(f"names: {RULE}")
    print("what a name changes and costs: nnunet-robust trainers NAME [NAME ...] -d DATASET -c CONFIGURATION")


def _print_costs(names: list[str], dataset: str, configuration: str, plans: str) -> None:
    from rich.table import Table

    from nnunet_robust.common.folders import dataset_name, nnunet_folder
    from nnunet_robust.trainers import TRAINERS
    from nnunet_robust.trainers.cost import STANDARD, changes, format_si, read_plans, trainer_cost
    from nnunet_robust.trainers.names import parse

    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset)
    plans_json, dataset_json = read_plans(folder, plans)
    lines = []
    for name in names:
        changed = changes(name, plans_json, configuration)
        lines.append(f"{name}: {TRAINERS[parse(name, TRAINERS)[0]].summary}")
        lines += [f"  {change.what} {change.standard} -> {change.changed}" for change in changed]
    rows = list(dict.fromkeys([STANDARD, *names]))
    costs = {name: trainer_cost(name, plans_json, configuration, dataset_json) for name in rows}
    standard = costs[STANDARD]
    table = Table(title=f"{folder.name}, {plans}, {configuration}")
    table.add_column("trainer", overflow="fold")
    for heading in ("parameters", "FLOPs per patch", "activations per batch"):
        table.add_column(heading, justify="right")
    for name, cost in costs.items():
        table.add_row(
            name,
            f"{format_si(cost.parameters)} ({cost.parameters / standard.parameters:.2f}x)",
            f"{format_si(cost.flops)} ({cost.flops / standard.flops:.2f}x)",
            f"{format_si(cost.activation_bytes)}B ({cost.activation_bytes / standard.activation_bytes:.2f}x)",
        )
    print(*lines, sep="\n")
    show(table)
    print(
        "FLOPs: one forward pass of one patch, two per multiplication and addition. Activations: what the forward\n"
        "pass of one training batch keeps for the backward pass, in float32 (mixed precision about halves it)."
    )


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", help="Where to work; a demo begun there goes on.")] = Path(
        "nnunet_robust_demo"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few iterations only: does it run? Scores mean little.")
    ] = False,
) -> None:
    """All of it on textures, on the CPU, in minutes: datasets, nnU-Net's trainings, the sweep, the report."""
    from nnunet_robust.cli.demo import run_demo

    for table, page in run_demo(output, quick):
        print_table(table)
        print(f"report: {page}\n")


def expand_variadic(arguments: list[str]) -> list[str]:
    """Repeat the flag of an option before each of its values: `-tr A B` becomes `-tr A -tr B`.

    A value is whatever follows, up to the next argument that begins with "-" and is no number.
    """
    expanded: list[str] = []
    flag: str | None = None
    for argument in arguments:
        if argument.startswith("-") and not _is_number(argument):
            flag = argument if argument in _VARIADIC else None
            if flag is None:
                expanded.append(argument)
        elif flag is None:
            expanded.append(argument)
        else:
            expanded += [flag, argument]
    return expanded


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. A fault of the user's is one line on stderr and exit 2.

    Returns:
        The exit code, for `sys.exit`.
    """
    given = expand_variadic(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        code = app([a for a in given if a != "--debug"], prog_name="nnunet-robust", standalone_mode=False)
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except _UsageFault as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            print(error.format_message())
        else:
            print(f"error: {error.format_message()}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
