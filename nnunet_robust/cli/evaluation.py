"""The command line of evaluation: complexity, sweep, report, recommend. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_robust.common.console import bar, show
from nnunet_robust.common.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

evaluation = typer.Typer()

_FAILURES_SHOWN = 20  # lines; the file has them all


@evaluation.command()
def complexity(
    dataset: Annotated[str, typer.Option("-d", help="Dataset id or name.")],
    output: Annotated[Path, typer.Option("-o", help="The table, a .csv; the histogram, a .png, goes beside it.")],
    images: Annotated[Path | None, typer.Option("-i", help="Images; default: the dataset's own.")] = None,
    labels: Annotated[list[Path] | None, typer.Option("-l", help="Their labels.")] = None,
    variant: Annotated[str, typer.Option("--variant", help="symmetric, or published: as in the papers.")] = "symmetric",
) -> None:
    """How alike are foreground and background? Texture divergence, foreground ratio, boundary contrast, per case."""
    from nnunet_robust.eval.complexity_table import write_complexity

    if labels and len(labels) > 1:
        raise UserError(f"-l names {len(labels)} folders: complexity is measured with one, name it alone")
    figure = write_complexity(
        dataset,
        output,
        images=images,
        labels=labels[0] if labels else None,
        variant=variant,
        track=bar("measuring"),
    )
    print(f"{output}\n{figure}")


@evaluation.command()
def sweep(
    output: Annotated[Path, typer.Option("-o", help="Folder of the results; a sweep begun there goes on.")],
    dataset: Annotated[str | None, typer.Option("-d", help="Dataset id or name.")] = None,
    configuration: Annotated[str, typer.Option("-c", help="2d, 3d_fullres, 3d_lowres.")] = "2d",
    trainers: Annotated[list[str] | None, typer.Option("-tr", help="Trainers, several at once.")] = None,
    plans: Annotated[str, typer.Option("-p", help="Plans identifier.")] = "nnUNetPlans",
    folds: Annotated[list[str] | None, typer.Option("-f", help="Folds to average; default: all trained.")] = None,
    checkpoint: Annotated[str, typer.Option("-chk", help="File name of the checkpoint.")] = "checkpoint_final.pth",
    models: Annotated[list[Path] | None, typer.Option("-m", help="Trained model folders, several at once.")] = None,
    images: Annotated[Path | None, typer.Option("-i", help="Images; default: imagesTs, else the fold's cases.")] = None,
    labels: Annotated[
        list[Path] | None, typer.Option("-l", help="Their labels; several folders: of experts who each drew all cases.")
    ] = None,
    reference: Annotated[
        str, typer.Option("--reference", help="Of several -l, what to compare with: first, majority, staple.")
    ] = "first",
    ensemble: Annotated[
        list[str] | None, typer.Option("--ensemble", help="Trainers that make an ensemble beside themselves; or: all.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="Of its members, case by case: uniform, confidence, complexity.")
    ] = "uniform",
    weights_from: Annotated[
        Path | None,
        typer.Option("--weights-from", help="For complexity: a sweep with --ensemble over other cases."),
    ] = None,
    uncertainty: Annotated[
        list[str] | None,
        typer.Option("--uncertainty", help="Scores of uncertainty, from members by: folds, mirroring, or both."),
    ] = None,
    calibration: Annotated[
        list[Path] | None, typer.Option("--calibration", help="Of the models: what becomes of their promises.")
    ] = None,
    save_uncertainty: Annotated[
        bool, typer.Option("--save-uncertainty", help="Keep the maps: entropy, mutual information.")
    ] = False,
    perturb: Annotated[
        list[str] | None,
        typer.Option("--perturb", help="Perturbations, several at once; NAME=0.1,0.2 has its own levels."),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="A named set of perturbations and levels.")] = None,
    levels: Annotated[list[float] | None, typer.Option("--levels", help="Levels of each --perturb.")] = None,
    denoise: Annotated[
        list[str] | None,
        typer.Option("--denoise", help="Each model also with denoising: auto (above the noise that it bears), always."),
    ] = None,
    denoise_from: Annotated[
        Path | None,
        typer.Option("--denoise-from", metavar="OUT", help="For auto: a sweep of noise over calibration cases."),
    ] = None,
    series: Annotated[Path | None, typer.Option("--series", help="A CSV of test sets, each a condition.")] = None,
    tile_size: Annotated[
        list[str] | None, typer.Option("--tile-size", help="Sliding windows, as 64 or 32x64x64; default: training's.")
    ] = None,
    attack_source: Annotated[
        list[str] | None,
        typer.Option("--attack-source", help="Attack these models (trainers or folders) for all; self: each itself."),
    ] = None,
    attack_steps: Annotated[int, typer.Option("--attack-steps", help="Steps of each attack.")] = 20,
    replicates: Annotated[int, typer.Option("--replicates", help="Noise draws per level.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise.")] = 0,
    disable_tta: Annotated[bool, typer.Option("--disable-tta", help="No test-time mirroring.")] = False,
    save_predictions: Annotated[bool, typer.Option("--save-predictions", help="Keep the segmentations.")] = False,
    tolerance_mm: Annotated[float, typer.Option("--tolerance-mm", help="Tolerance of the surface Dice (nsd).")] = 2.0,
    device: Annotated[str | None, typer.Option("-device", help="cpu, cuda or mps; default: cuda if there.")] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="exact: as nnUNetv2_predict; fast: nearly, and faster.")
    ] = "exact",
    workers: Annotated[
        int | None, typer.Option("--workers", help="Threads beside the network's; default: by device.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="i/n: the i-th of n processes that work at different times or places.")
    ] = None,
) -> None:
    """Perturb the test images step by step, predict with every model, and measure: results.csv, inputs.csv."""
    from nnunet_robust.eval.sweep.conditions import conditions_for
    from nnunet_robust.eval.sweep.progress import SweepProgress
    from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep

    perturbed = perturb or preset or levels or not (series or tile_size)
    parameters = SweepParameters(
        output=output,
        conditions=conditions_for(perturb or [], preset, levels) if perturbed else {},
        dataset=dataset,
        configuration=configuration,
        trainers=trainers or [],
        plans=plans,
        folds=folds,
        checkpoint=checkpoint,
        model_folders=models or [],
        images=images,
        labels=labels or [],
        reference=reference,
        ensemble=ensemble or [],
        weights=weights,
        weights_from=weights_from,
        uncertainty=uncertainty or [],
        calibrations=calibration or [],
        save_uncertainty=save_uncertainty,
        denoise=denoise or [],
        denoise_from=denoise_from,
        series=series,
        tile_sizes=tile_size or [],
        attack_sources=attack_source or [],
        attack_steps=attack_steps,
        replicates=replicates,
        seed=seed,
        mirroring=not disable_tta,
        save_predictions=save_predictions,
        tolerance_mm=tolerance_mm,
        device=device,
        precision=precision,
        workers=workers,
        shard=shard,
    )
    with SweepProgress() as progress:
        result = run_sweep(parameters, progress)
    print(*result.notes, sep="\n", end="\n" * bool(result.notes), file=sys.stderr)
    for failure in result.failures[:_FAILURES_SHOWN]:
        print(f"failed: {failure}", file=sys.stderr)
    if result.failures:
        print(f"{len(result.failures)} failures: see {output / 'failures.csv'}", file=sys.stderr)
    print(f"{result.table}\nnext: nnunet-robust report {output}")
    if result.failures:
        raise typer.Exit(1)


@evaluation.command()
def report(
    outputs: Annotated[list[Path], typer.Argument(metavar="OUT [OUT ...]", help="Folders of sweeps, one per dataset.")],
    folder: Annotated[
        Path | None, typer.Option("-o", help="Where the report goes; default: OUT. Needed with several OUT.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="html (the page, the default); pdf, png, csv, tex: figures and tables into figures/."
        ),
    ] = None,
    margin: Annotated[float, typer.Option("--margin", help="Difference in Dice that matters, for the recipe.")] = 0.01,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Compare two OUT, before and after: compare.html; default of -o: the second."),
    ] = False,
) -> None:
    """Write report.html, one self-contained page, from sweeps' results; or its figures and tables for a paper."""
    if compare:
        _compare(outputs, folder, formats)
        return
    from nnunet_robust.eval.report import analyse, printed_summary, write_page
    from nnunet_robust.eval.report.export import check_formats, write_files

    wanted = formats or ["html"]
    check_formats(wanted)
    if folder is None and len(outputs) > 1:
        raise UserError(f"{len(outputs)} sweeps make one report: say with -o in which folder it goes")
    target = outputs[0] if folder is None else folder
    analysis = analyse(outputs, margin)
    print_table(printed_summary(analysis))
    if set(wanted) - {"html"}:
        print(*write_files(analysis, target / "figures", wanted), sep="\n")
    if "html" in wanted:
        print(write_page(analysis, target / "report.html"))


def _compare(outputs: list[Path], folder: Path | None, formats: list[str] | None) -> None:
    from nnunet_robust.eval.report.compare_page import write_comparison

    if len(outputs) != 2:
        raise UserError(f"--compare takes two sweeps, got {len(outputs)}: nnunet-robust report --compare OUT1 OUT2")
    if formats:
        raise UserError("--compare writes one page, compare.html, with a CSV behind every figure: leave out --format")
    print(write_comparison(outputs[0], outputs[1], folder))


@evaluation.command()
def recommend(
    images: Annotated[Path, typer.Option("-i", help="The new images: a folder, or one file.")],
    sweep: Annotated[Path, typer.Option("--from", metavar="OUT", help="The folder of a sweep.")],
    models: Annotated[
        list[Path] | None, typer.Option("-m", help="A trained model of that sweep, to predict masks with.")
    ] = None,
    margin: Annotated[float, typer.Option("--margin", help="Difference in Dice that matters.")] = 0.01,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all of it into this file, too.")] = None,
    device: Annotated[str | None, typer.Option("-device", help="cpu, cuda or mps; default: cuda if there.")] = None,
) -> None:
    """Which architecture for images like these? By what a sweep measured; exit code 3 where it declines to say."""
    from nnunet_robust.common.files import write_atomically
    from nnunet_robust.deployment.recommendation.advice import as_json, expected_table, image_table, sentences
    from nnunet_robust.deployment.recommendation.recommend import recommend as recommend_for
    from nnunet_robust.eval.inference.devices import device_of

    if models and len(models) > 1:
        raise UserError(f"-m names {len(models)} models: the masks come from one, name it alone")
    answer = recommend_for(
        images,
        sweep,
        model_folder=models[0] if models else None,
        margin=margin,
        device=device_of(device),
        track=bar("measuring"),
    )
    if json_file is not None:
        write_atomically(json_file, as_json(answer))
    print_table(image_table(answer))
    if answer.verdict is not None:
        print_table(expected_table(answer))
    print(*sentences(answer), sep="\n")
    if answer.verdict is None:
        raise typer.Exit(3)


def print_table(frame: pd.DataFrame) -> None:
    """Print a data frame as a table, three digits; a column that says the same in every row is left out."""
    from rich.table import Table

    if len(frame) > 1:
        frame = frame.drop(
            columns=[name for name in ("dataset", "label") if name in frame and frame[name].nunique() == 1]
        )
    table = Table()
    for name in frame.columns:
        table.add_column(str(name), overflow="fold", justify="right" if frame[name].dtype.kind in "if" else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    show(table)
