"""The command line of promises: calibrate, apply, qa. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_robust.cli.evaluation import print_table
from nnunet_robust.common.console import bar
from nnunet_robust.common.errors import UserError

if TYPE_CHECKING:
    from nnunet_robust.deployment.qa.assess import Assessor
    from nnunet_robust.eval.images.image_files import ImageFiles

care = typer.Typer()

Images = Annotated[Path, typer.Option("-i", help="The new images: a folder, or one file.")]
Dataset = Annotated[str | None, typer.Option("-d", help="Dataset id or name.")]
Configuration = Annotated[str, typer.Option("-c", help="2d, 3d_fullres, 3d_lowres.")]
Trainers = Annotated[list[str] | None, typer.Option("-tr", help="The trainer.")]
Plans = Annotated[str, typer.Option("-p", help="Plans identifier.")]
Models = Annotated[list[Path] | None, typer.Option("-m", help="The trained model's folder.")]
Folds = Annotated[list[str] | None, typer.Option("-f", help="Folds to average; default: all trained.")]
Checkpoint = Annotated[str, typer.Option("-chk", help="File name of the checkpoint.")]
Device = Annotated[str | None, typer.Option("-device", help="cpu, cuda or mps; default: cuda if there.")]
Members = Annotated[list[str] | None, typer.Option("--members", help="Tell apart: folds, mirroring; default: both.")]
DisableTta = Annotated[bool, typer.Option("--disable-tta", help="No test-time mirroring.")]
Precision = Annotated[str, typer.Option("--precision", help="exact: as nnUNetv2_predict; fast: nearly, and faster.")]
Kind = Annotated[
    str, typer.Option("--kind", help="Inner and outer masks by a probability threshold, or by a margin in mm.")
]
Calibrations = Annotated[  # `cli.expand_variadic` repeats the flag, as for a sweep: of one alone the last would count
    list[Path] | None, typer.Option("--calibration", metavar="FILE", help="What nnunet-robust calibrate has written.")
]
DiceLimits = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--dice-limits",
        help="Review, and reject, where the Dice may be below; default: where it is lower than the calibration's.",
    ),
]
ShareLimits = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--share-limits",
        help="Review, and reject, where more of the outer mask is not in the inner one; default: not judged.",
    ),
]


@care.command()
def calibrate(
    output: Annotated[Path, typer.Option("-o", help="The calibration, a .json.")],
    images: Annotated[
        Path | None, typer.Option("-i", help="Images that the model was not trained on; default: as of sweep.")
    ] = None,
    labels: Annotated[list[Path] | None, typer.Option("-l", help="Their labels.")] = None,
    models: Models = None,
    dataset: Dataset = None,
    configuration: Configuration = "2d",
    trainers: Trainers = None,
    plans: Plans = "nnUNetPlans",
    folds: Folds = None,
    checkpoint: Checkpoint = "checkpoint_final.pth",
    alpha: Annotated[
        float, typer.Option("--alpha", help="Share of the object that may be missed on average, or be wrongly claimed.")
    ] = 0.1,
    delta: Annotated[
        float,
        typer.Option("--delta", help="1 - the confidence of that, e.g. 0.1; 0: in expectation over calibration sets."),
    ] = 0.0,
    interval_alpha: Annotated[
        float, typer.Option("--interval-alpha", help="Share of cases whose Dice may lie outside of its interval.")
    ] = 0.1,
    members: Members = None,
    condition: Annotated[
        str, typer.Option("--condition", help="What the images are, in words, for every sentence on them.")
    ] = "clean images",
    disable_tta: DisableTta = False,
    device: Device = None,
    precision: Precision = "exact",
) -> None:
    """What can be promised of a model's segmentations: bounds and intervals of the Dice, from cases with labels."""
    from nnunet_robust.common.folders import dataset_name
    from nnunet_robust.eval.conformal.calibrating import Guarantee, run_calibration
    from nnunet_robust.eval.conformal.training_cases import check_not_trained_on
    from nnunet_robust.eval.images.selection import CaseSelection, cases_of
    from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads
    from nnunet_robust.eval.inference.predictor import Predictor
    from nnunet_robust.eval.inference.selection import ModelSelection, interface, models_of

    if output.suffix != ".json" or output.is_dir():
        raise UserError(f"-o {output}: name the file that the calibration goes into, such as calibration.json")
    if labels and len(labels) > 1:
        raise UserError(f"-l names {len(labels)} folders: a calibration is on one reference, name it alone")
    name = None if dataset is None else dataset_name(dataset)
    check_one(models, trainers)
    selection = ModelSelection(
        dataset=dataset,
        configuration=configuration,
        trainers=trainers or [],
        plans=plans,
        folds=folds,
        checkpoint=checkpoint,
        model_folders=models or [],
        mirroring=not disable_tta,
    )
    where = device_of(device)
    use_nnunets_threads(where)
    (model,) = models_of(selection, name, where)
    predictor = Predictor(model, members or ("folds", "mirroring"), precision)
    shared = interface(model)
    wanted = CaseSelection(images=images, labels=labels or [])
    cases = cases_of(wanted, name, model.fold, shared["file ending"], shared["channels"])
    known, training = check_not_trained_on(cases, model)
    if not known:
        print(f"warning: {training}", file=sys.stderr)
    guarantee = Guarantee(alpha, delta or None, interval_alpha, condition)
    calibration = run_calibration(predictor, cases, guarantee, training, output, bar("calibrating"))
    for label in calibration.bounds:
        print(*calibration.sentences(label), sep="\n", file=sys.stderr)
    print(output)


@care.command()
def apply(
    images: Images,
    output: Annotated[Path, typer.Option("-o", help="Folder of the masks and ratings.")],
    calibrations: Calibrations = None,
    models: Models = None,
    dataset: Dataset = None,
    configuration: Configuration = "2d",
    trainers: Trainers = None,
    plans: Plans = "nnUNetPlans",
    checkpoint: Checkpoint = "checkpoint_final.pth",
    kind: Kind = "threshold",
    dice_limits: DiceLimits = None,
    share_limits: ShareLimits = None,
    maps: Annotated[bool, typer.Option("--maps", help="Entropy, mutual information and probabilities, too.")] = False,
    device: Device = None,
) -> None:
    """Segment new images, with an inner and an outer mask each, and a rating; exit code 1 where one cannot be."""
    from nnunet_robust.deployment.qa.applying import apply_calibration
    from nnunet_robust.deployment.qa.assess import Assessor, load_calibrated
    from nnunet_robust.deployment.qa.limits import check_limits
    from nnunet_robust.eval.conformal.calibration_file import read_calibration
    from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads

    calibration = _one_calibration(calibrations)
    if calibration is None:
        raise UserError("no calibration: give --calibration FILE, which nnunet-robust calibrate has written")
    check_limits(dice_limits, share_limits)
    known = read_calibration(calibration)
    where = device_of(device)
    use_nnunets_threads(where)
    folder = one_model_folder(models, dataset, trainers, plans, configuration)
    predictor = load_calibrated(folder, checkpoint, where, known)
    assessor = Assessor(predictor, known, kind, dice_limits, share_limits)  # type: ignore[arg-type]
    found, _ = _images(images, assessor)
    failed = apply_calibration(
        assessor, known, calibration, found, output, kind=kind, maps=maps, track=bar("segmenting")
    )
    for one in failed:
        print(f"failed: {one.case}: {'; '.join(one.reasons)}", file=sys.stderr)
    print(output / "ratings.csv")
    if failed:
        raise typer.Exit(1)


@care.command()
def qa(
    images: Images,
    output: Annotated[Path, typer.Option("-o", help="Folder of qa.csv and qa.html.")],
    calibrations: Calibrations = None,
    models: Models = None,
    dataset: Dataset = None,
    configuration: Configuration = "2d",
    trainers: Trainers = None,
    plans: Plans = "nnUNetPlans",
    checkpoint: Checkpoint = "checkpoint_final.pth",
    kind: Kind = "threshold",
    dice_limits: DiceLimits = None,
    share_limits: ShareLimits = None,
    device: Device = None,
) -> None:
    """Accept, review or reject each image of a folder, and why; exit code 3 unless all are accepted."""
    from nnunet_robust.deployment.qa.assess import Assessor, load_calibrated
    from nnunet_robust.deployment.qa.limits import check_limits
    from nnunet_robust.deployment.qa.qa import assess_folder, counts, write_csv
    from nnunet_robust.deployment.qa.qa_page import UNCALIBRATED, printed_table, write_page
    from nnunet_robust.eval.conformal.calibration_file import read_calibration
    from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads
    from nnunet_robust.eval.inference.models import load_model
    from nnunet_robust.eval.inference.predictor import Predictor

    calibration = _one_calibration(calibrations)
    if calibration is None and (dice_limits or share_limits):
        raise UserError("--dice-limits and --share-limits need a --calibration: without one there is no such number")
    check_limits(dice_limits, share_limits)
    known = None if calibration is None else read_calibration(calibration)
    where = device_of(device)
    use_nnunets_threads(where)
    folder = one_model_folder(models, dataset, trainers, plans, configuration)
    if known is None:
        model = load_model(folder, None, checkpoint, where, True, None)
        predictor = Predictor(model, ("folds", "mirroring"), "exact")
    else:
        predictor = load_calibrated(folder, checkpoint, where, known)
    assessor = Assessor(predictor, known, kind, dice_limits, share_limits)  # type: ignore[arg-type]
    found, ignored = _images(images, assessor)
    rows = assess_folder(assessor, found, bar("assessing"))
    write_csv(output / "qa.csv", rows)
    write_page(output / "qa.html", rows, f"{folder.name}, folds {predictor.model.fold}", known, assessor.rules, ignored)
    print_table(printed_table(rows))
    if known is None:
        print(UNCALIBRATED)
    counted = counts(rows)
    print(f"of {len(rows)} images: " + ", ".join(f"{number} {verdict}" for verdict, number in counted.items()))
    print(f"{output / 'qa.csv'}\n{output / 'qa.html'}")
    if counted["accept"] < len(rows):
        raise typer.Exit(3)


def check_one(models: Sequence[Path] | None, trainers: Sequence[str] | None) -> None:
    """Refuse several models."""
    named = [*map(str, models or ()), *(trainers or ())]
    if len(named) > 1:
        raise UserError(f"{len(named)} models are named ({', '.join(named)}): name one alone")


def _one_calibration(files: Sequence[Path] | None) -> Path | None:
    if files and len(files) > 1:
        raise UserError(f"{len(files)} calibrations are named ({', '.join(map(str, files))}): name the model's alone")
    return files[0] if files else None


def one_model_folder(
    models: list[Path] | None, dataset: str | None, trainers: list[str] | None, plans: str, configuration: str
) -> Path:
    """The folder of the one model that is named.

    Raises:
        UserError: none is named, or several are.
    """
    from nnunet_robust.common.folders import dataset_name, model_folder

    check_one(models, trainers)
    if models:
        return models[0]
    if not trainers:
        raise UserError("no model: name a trainer with -tr, or a model folder with -m")
    if dataset is None:
        raise UserError("a trainer (-tr) needs a dataset (-d); a model folder (-m) goes without")
    return model_folder(dataset_name(dataset), trainers[0], plans, configuration)


def _images(folder: Path, assessor: Assessor) -> tuple[list[ImageFiles], list[str]]:
    """The images of a folder, and the files there that are none."""
    from nnunet_robust.eval.images.image_files import find_images

    found = find_images(folder, assessor.file_ending)
    used = {path for image in found for path in image.images}
    ignored = sorted(path.name for path in folder.iterdir() if path not in used) if folder.is_dir() else []
    if ignored:
        print(
            f"not looked at, as they are no images <case>_0000{assessor.file_ending}: {', '.join(ignored)}",
            file=sys.stderr,
        )
    return found, ignored
