"""The commands for new images: recommend, calibrate, apply, qa. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_robust.cli.checks import RATE, SHARE
from nnunet_robust.cli.console import print_table
from nnunet_robust.cli.options import (
    FILE,
    CaseFlags,
    Commands,
    DeviceFlags,
    MemberFlags,
    ModelAndFoldsFlags,
    ModelFlags,
    NewImages,
    RatingFlags,
    TrustFlag,
    folder_of,
)
from nnunet_robust.common.console import bar
from nnunet_robust.common.errors import UserError

if TYPE_CHECKING:
    from nnunet_robust.deployment.qa.assess import Assessor
    from nnunet_robust.eval.conformal.calibration import Calibration
    from nnunet_robust.eval.images.image_files import ImageFiles

deployment = Commands()

JSON_FILE = FILE._replace(flag="--json")
_RATINGS = folder_of("ratings.csv", "ratings.json")
_QA = folder_of("qa.csv", "qa.html")


@deployment.command(rich_help_panel="New images")
def recommend(
    images: NewImages,
    sweep: Annotated[Path, typer.Option("--from", metavar="OUT", help="The folder of a sweep.")],
    execution: DeviceFlags,
    models: Annotated[
        list[Path] | None, typer.Option("-m", help="A trained model of that sweep, to predict masks with.")
    ] = None,
    margin: Annotated[float, typer.Option("--margin", help="Difference in Dice that matters."), SHARE] = 0.01,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all of it into this file, too."), JSON_FILE
    ] = None,
    trust_checkpoints: TrustFlag = False,
) -> None:
    """Which architecture for images like these? By what a sweep measured; exit code 3 where it declines to say.

    Example: nnunet-robust recommend -i new_images --from OUT
    """
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
        device=device_of(execution.device),
        track=bar("measuring"),
        trusted=trust_checkpoints,
    )
    if json_file is not None:
        write_atomically(json_file, as_json(answer))
    print_table(image_table(answer))
    if answer.verdict is not None:
        print_table(expected_table(answer))
    print(*sentences(answer), sep="\n")
    if answer.verdict is None:
        raise typer.Exit(3)


@deployment.command(rich_help_panel="New images")
def calibrate(
    output: Annotated[Path, typer.Option("-o", help="The calibration, a .json."), FILE],
    wanted: CaseFlags,
    model: ModelAndFoldsFlags,
    prediction: MemberFlags,
    alpha: Annotated[
        float,
        typer.Option("--alpha", help="Share of the object that may be missed on average, or be wrongly claimed."),
        RATE,
    ] = 0.1,
    delta: Annotated[
        float,
        typer.Option("--delta", help="1 - the confidence of that, e.g. 0.1; 0: in expectation over calibration sets."),
        SHARE,
    ] = 0.0,
    interval_alpha: Annotated[
        float,
        typer.Option("--interval-alpha", help="Share of cases whose Dice may lie outside of its interval."),
        RATE,
    ] = 0.1,
    condition: Annotated[
        str, typer.Option("--condition", help="What the images are, in words, for every sentence on them.")
    ] = "clean images",
) -> None:
    """What can be guaranteed of a model's segmentations, from labelled cases that it was not trained on.

    Example: nnunet-robust calibrate -i images -l labels -m MODEL -o calibration.json
    """
    from nnunet_robust.common.folders import dataset_name
    from nnunet_robust.deployment.qa.false_alarms import false_alarms
    from nnunet_robust.deployment.qa.training import read_training
    from nnunet_robust.eval.conformal.calibrating import Guarantee, run_calibration
    from nnunet_robust.eval.images.selection import CaseSelection, cases_of
    from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads
    from nnunet_robust.eval.inference.predictor import Predictor
    from nnunet_robust.eval.inference.selection import ModelSelection, interface, models_of
    from nnunet_robust.eval.inference.training_cases import check_not_trained_on

    if output.suffix != ".json":
        raise UserError(f"-o {output}: name the file that the calibration goes into, such as calibration.json")
    if len(wanted.labels) > 1:
        raise UserError(f"-l names {len(wanted.labels)} folders: a calibration is on one reference, name it alone")
    guarantee = Guarantee(alpha, delta or None, interval_alpha, condition)
    name = None if model.dataset is None else dataset_name(model.dataset)
    model.check_one()
    device = device_of(prediction.device)
    use_nnunets_threads(device)
    (loaded,) = models_of(ModelSelection(**vars(model), mirroring=prediction.mirroring), name, device)
    predictor = Predictor(loaded, prediction.members or ("folds", "mirroring"), prediction.precision)
    shared = interface(loaded)
    selection = CaseSelection(**vars(wanted))
    cases = cases_of(selection, name, loaded.fold, shared["file ending"], shared["channels"])
    known, training = check_not_trained_on(cases, loaded)
    if not known:
        print(f"warning: {training}", file=sys.stderr)
    trained_on = read_training(loaded.folder, loaded.configuration)
    calibration = run_calibration(
        predictor, cases, guarantee, training, output, bar("calibrating"),
        judge=lambda made: false_alarms(made, trained_on),
    )  # fmt: skip
    for label in calibration.bounds:
        print(*calibration.sentences(label), sep="\n", file=sys.stderr)
    _warn_of_uninformative(calibration)
    if calibration.false_alarms is not None:
        print(calibration.false_alarms.sentence(), file=sys.stderr)
    print(output)


@deployment.command(rich_help_panel="New images")
def apply(
    images: NewImages,
    output: Annotated[Path, typer.Option("-o", help="Folder of the masks and ratings."), _RATINGS],
    rating: RatingFlags,
    model: ModelFlags,
    execution: DeviceFlags,
    maps: Annotated[bool, typer.Option("--maps", help="Entropy, mutual information and probabilities, too.")] = False,
) -> None:
    """Segment new images, with an inner and an outer mask each, and a rating; exit code 1 where one cannot be.

    Example: nnunet-robust apply -i new_images -m MODEL --calibration calibration.json -o OUT
    """
    from nnunet_robust.deployment.qa.applying import apply_calibration
    from nnunet_robust.deployment.qa.assess import Assessor, load_calibrated
    from nnunet_robust.deployment.qa.limits import check_limits
    from nnunet_robust.eval.conformal.calibration_file import read_calibration
    from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads

    calibration = rating.one_calibration()
    if calibration is None:
        raise UserError("no calibration: give --calibration FILE, which nnunet-robust calibrate has written")
    check_limits(rating.dice_limits, rating.share_limits)
    known = read_calibration(calibration)
    where = device_of(execution.device)
    use_nnunets_threads(where)
    folder = model.one_folder()
    predictor = load_calibrated(folder, model.checkpoint, where, known, model.trust_checkpoints)
    _warn_of_uninformative(known)
    assessor = Assessor(predictor, known, rating.kind, rating.dice_limits, rating.share_limits)  # type: ignore[arg-type]
    found, _ = _images(images, assessor)
    failed = apply_calibration(
        assessor, known, calibration, found, output, kind=rating.kind, maps=maps, track=bar("segmenting")
    )
    for one in failed:
        print(f"failed: {one.case}: {'; '.join(one.reasons)}", file=sys.stderr)
    print(output / "ratings.csv")
    if failed:
        raise typer.Exit(1)


@deployment.command(rich_help_panel="New images")
def qa(
    images: NewImages,
    output: Annotated[Path, typer.Option("-o", help="Folder of qa.csv and qa.html."), _QA],
    rating: RatingFlags,
    model: ModelFlags,
    execution: DeviceFlags,
) -> None:
    """Accept, review or reject each image of a folder, and why; exit code 3 unless all are accepted.

    Example: nnunet-robust qa -i new_images -m MODEL --calibration calibration.json -o OUT
    """
    from nnunet_robust.deployment.qa.assess import Assessor, load_calibrated
    from nnunet_robust.deployment.qa.limits import check_limits
    from nnunet_robust.deployment.qa.qa import assess_folder, counts, write_csv
    from nnunet_robust.deployment.qa.qa_page import UNCALIBRATED, printed_table, write_page
    from nnunet_robust.eval.conformal.calibration_file import read_calibration
    from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads
    from nnunet_robust.eval.inference.loading import load_model
    from nnunet_robust.eval.inference.predictor import Predictor

    calibration = rating.one_calibration()
    if calibration is None and (rating.dice_limits or rating.share_limits):
        raise UserError("--dice-limits and --share-limits need a --calibration: without one there is no such number")
    check_limits(rating.dice_limits, rating.share_limits)
    known = None if calibration is None else read_calibration(calibration)
    where = device_of(execution.device)
    use_nnunets_threads(where)
    folder = model.one_folder()
    if known is None:
        loaded = load_model(folder, None, model.checkpoint, where, True, None, model.trust_checkpoints)
        predictor = Predictor(loaded, ("folds", "mirroring"), "exact")
    else:
        predictor = load_calibrated(folder, model.checkpoint, where, known, model.trust_checkpoints)
    if known is not None:
        _warn_of_uninformative(known)
    assessor = Assessor(predictor, known, rating.kind, rating.dice_limits, rating.share_limits)  # type: ignore[arg-type]
    found, ignored = _images(images, assessor)
    rows = assess_folder(assessor, found, bar("assessing"))
    write_csv(output / "qa.csv", rows)
    write_page(output / "qa.html", rows, f"{folder.name}, folds {predictor.model.fold}", known, assessor.rules, ignored)
    print_table(printed_table(rows))
    if known is None:
        print(UNCALIBRATED)
    counted = counts(rows)
    if known is not None and known.false_alarms is not None:
        low, high = known.false_alarms.interval
        print(
            f"{100 * known.false_alarms.rate:.3g} % ({100 * low:.2g} to {100 * high:.2g} %) of the calibration's own "
            "cases would be flagged, too: so many alarms are usual"
        )
    print(f"of {len(rows)} images: " + ", ".join(f"{number} {verdict}" for verdict, number in counted.items()))
    print(f"{output / 'qa.csv'}\n{output / 'qa.html'}")
    if counted["accept"] < len(rows):
        raise typer.Exit(3)


def _warn_of_uninformative(calibration: Calibration) -> None:
    from nnunet_robust.common.console import warn

    for sentence in calibration.uninformative():
        warn(sentence)


def _images(folder: Path, assessor: Assessor) -> tuple[list[ImageFiles], list[str]]:
    """The images of a folder, and the files there that are none."""
    from nnunet_robust.eval.images.image_files import find_images, other_files

    found = find_images(folder, assessor.file_ending, assessor.channels)
    return found, other_files(folder, found)
