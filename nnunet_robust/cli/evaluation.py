"""The commands `nnunet-robust complexity` and `report`. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nnunet_robust.cli.checks import SHARE
from nnunet_robust.cli.options import DATASET, FILE, FOLDER, CaseFlags, Commands
from nnunet_robust.common.console import bar
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.outputs import require_file, require_folder

evaluation = Commands()


@evaluation.command(rich_help_panel="Evaluation")
def complexity(
    dataset: Annotated[str, DATASET],
    output: Annotated[Path, typer.Option("-o", help="The table, a .csv; the histogram, a .png, goes beside it."), FILE],
    cases: CaseFlags,
    variant: Annotated[str, typer.Option("--variant", help="symmetric, or published: as in the papers.")] = "symmetric",
) -> None:
    """How alike are foreground and background? Texture divergence, foreground ratio, boundary contrast, per case.

    Exit code 1 where a case cannot be read: it is named, and the others are measured.

    Example: nnunet-robust complexity -d 501 -o complexity.csv
    """
    from nnunet_robust.eval.complexity_table import write_complexity

    require_file("-o", output.with_suffix(".png"))
    if len(cases.labels) > 1:
        raise UserError(f"-l names {len(cases.labels)} folders: complexity is measured with one, name it alone")
    figure, failed = write_complexity(
        dataset,
        output,
        images=cases.images,
        labels=cases.labels[0] if cases.labels else None,
        variant=variant,
        track=bar("measuring"),
    )
    for reason in failed:
        print(f"failed: {reason}", file=sys.stderr)
    print(f"{output}\n{figure}")
    if failed:
        raise typer.Exit(1)


@evaluation.command(rich_help_panel="Evaluation")
def report(
    outputs: Annotated[list[Path], typer.Argument(metavar="OUT [OUT ...]", help="Folders of sweeps, one per dataset.")],
    folder: Annotated[
        Path | None,
        typer.Option("-o", help="Where the report goes; default: OUT. Needed with several OUT."),
        FOLDER,
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="html (the page, the default); json: verdicts.json, for programs; into figures/: pdf, png, csv, tex, "
            "xlsx: figures and tables; "
            "gif, mp4: videos of cases under rising level.",
        ),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", help="Difference in Dice that matters, for the recipe."), SHARE
    ] = 0.01,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", help="Structures that the report is about, by nnU-Net's names; default: all of them."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Compare two OUT, before and after: compare.html; default of -o: the second."),
    ] = False,
) -> None:
    """Write report.html, one self-contained page, from sweeps' results; or its figures, tables and videos as files.

    Example: nnunet-robust report OUT --format html pdf csv
    """
    if compare:
        if labels:
            raise UserError("--compare is of all structures: leave out --label")
        _compare(outputs, folder, formats)
        return
    from nnunet_robust.common.files import write_atomically
    from nnunet_robust.eval.report import analyse, printed_answer, write_page
    from nnunet_robust.eval.report.export import PAGES, VIDEOS, check_formats, write_files
    from nnunet_robust.eval.report.verdicts_json import verdicts_json

    wanted = formats or ["html"]
    check_formats(wanted)
    if folder is None and len(outputs) > 1:
        raise UserError(f"{len(outputs)} sweeps make one report: say with -o in which folder it goes")
    target = _target(outputs[0], folder)
    analysis = analyse(outputs, margin, labels or ())
    print(*printed_answer(analysis), sep="\n")
    for warning in analysis.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if set(wanted) - set(PAGES):
        track = bar("writing videos") if set(wanted) & set(VIDEOS) else iter
        print(*write_files(analysis, target / "figures", wanted, track), sep="\n")
    if "json" in wanted:
        write_atomically(target / "verdicts.json", verdicts_json(analysis))
        print(target / "verdicts.json")
    if "html" in wanted:
        print(write_page(analysis, target / "report.html"))


def _target(results: Path, folder: Path | None) -> Path:
    """The folder of the report; the results' own must be there, and be writable, where no other is named."""
    if folder is None and results.is_dir():
        require_folder("the folder of the results", results, "say with -o where the report goes")
    return folder or results


def _compare(outputs: list[Path], folder: Path | None, formats: list[str] | None) -> None:
    from nnunet_robust.eval.report.compare_page import write_comparison

    if len(outputs) != 2:
        raise UserError(f"--compare takes two sweeps, got {len(outputs)}: nnunet-robust report --compare OUT1 OUT2")
    if formats:
        raise UserError("--compare writes one page, compare.html, with a CSV behind every figure: leave out --format")
    print(write_comparison(outputs[0], outputs[1], _target(outputs[1], folder)))
