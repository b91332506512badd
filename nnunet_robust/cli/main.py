"""The command `nnunet-robust`: a subcommand per verb. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from nnunet_robust import __version__
from nnunet_robust.cli.datasets import convert, synthesize
from nnunet_robust.cli.denoising import denoising
from nnunet_robust.cli.deployment import deployment
from nnunet_robust.cli.evaluation import evaluation
from nnunet_robust.cli.monitor import monitor
from nnunet_robust.cli.options import FOLDER, Commands
from nnunet_robust.cli.stopped import what_is_kept
from nnunet_robust.cli.streams import lasting_streams
from nnunet_robust.cli.study import study
from nnunet_robust.cli.sweep import sweeping
from nnunet_robust.cli.trainers import training
from nnunet_robust.common.console import show
from nnunet_robust.common.environment import refuse_harmful
from nnunet_robust.common.errors import UserError, one_line, shortened
from nnunet_robust.common.faults import in_words, reason
from nnunet_robust.common.interrupts import Stopped, stoppable
from nnunet_robust.common.progress import ended_progress

INTERNAL = 70
"""The exit code of a fault of this package's own, as in sysexits.h; 3 is an answer of some commands."""

app = Commands(
    help="Which segmentation architecture stays accurate when the images get worse? An extension of nnU-Net v2.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(training)
app.add_typer(synthesize, name="synthesize", rich_help_panel="Datasets and models")
app.add_typer(convert, name="convert", rich_help_panel="Datasets and models")
app.add_typer(sweeping)
app.add_typer(evaluation)
app.add_typer(deployment)
app.add_typer(denoising)
app.add_typer(monitor, name="monitor", rich_help_panel="New images")
app.add_typer(study, name="study")

# The class of all usage errors: newer typers bring a copy of click, in which `click.ClickException` is another class.
_UsageFault: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def _version(value: bool) -> None:
    if value:
        print(f"nnunet-robust {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="A traceback with an error (before the subcommand).")] = False,
) -> None:
    if context.invoked_subcommand != "doctor":
        refuse_harmful()


@app.command()
def doctor() -> None:
    """Is everything in place? Versions, the hook, the trainers, the GPU, nnU-Net's folders; a fix for each fault.

    Example: nnunet-robust doctor
    """
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
def demo(
    output: Annotated[Path, typer.Option("-o", help="Where to work; a demo begun there goes on."), FOLDER] = Path(
        "nnunet_robust_demo"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="A few iterations only: does it run? Scores mean little.")
    ] = False,
) -> None:
    """All of it on textures, on the CPU, in minutes: datasets, nnU-Net's trainings, the sweep, the report.

    Example: nnunet-robust demo -o my_demo
    """
    from nnunet_robust.cli.demo import run_demo

    for lines, page in run_demo(output, quick):
        print(*lines, sep="\n")
        print(f"report: {page}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. A fault is one line on stderr, never a traceback.

    Returns:
        The exit code, for `sys.exit`: 2 for what the user, or the machine, can mend, `INTERNAL` for a fault of this
        package's, 130 after Ctrl-C; else the command's own.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")  # nothing that a user can mend
    with lasting_streams() as fault_of_stdout:
        code = _run(sys.argv[1:] if arguments is None else arguments, alone=arguments is None)
        fault = fault_of_stdout()
        if fault is None or isinstance(fault, BrokenPipeError):  # one that reads no further, as head, has what it wants
            return code
        print(f"error: what is printed cannot be written: {reason(fault)}", file=sys.stderr)
        return code or 2


def _run(given: list[str], alone: bool) -> int:
    debug = "--debug" in given
    try:
        Path.cwd()
    except FileNotFoundError:  # torch's own libraries would end the process
        print("error: the working folder is not there any more: cd to one that is", file=sys.stderr)
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):  # signs that the shell's coding lacks are no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    words = [argument for argument in given if argument != "--debug"]
    try:
        with stoppable(until_the_end=alone), ended_progress():
            code = app(words, prog_name="nnunet-robust", standalone_mode=False)
    except Stopped as stopped:
        print(f"stopped: {stopped.kept or what_is_kept(words)}", file=sys.stderr)
        return stopped.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print(f"stopped: {what_is_kept(words)}", file=sys.stderr)
        return 130
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            print(error.format_message())  # type: ignore[attr-defined]
            return 2
        if debug and not isinstance(error, _UsageFault):
            raise
        line, code = _told(error)
        print(f"error: {shortened(line)}", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _told(error: Exception) -> tuple[str, int]:
    """A fault's line, and its exit code."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, _UsageFault):
        return error.format_message(), 2
    if line := in_words(error):
        return line, 2
    return (
        f"a fault of nnunet-robust: {type(error).__name__}: {one_line(error)}: nnunet-robust --debug ... shows where; "
        "please report it with that",
        INTERNAL,
    )


if __name__ == "__main__":
    sys.exit(main())
