"""The command line of drift: monitor fit, monitor check. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nnunet_robust.cli.checks import RATE
from nnunet_robust.cli.options import FILE, Commands, DeviceFlags, MemberFlags, ModelAndFoldsFlags, TrustFlag, folder_of
from nnunet_robust.common.console import bar
from nnunet_robust.common.errors import UserError

monitor = Commands(
    help="Have the images changed? A reference, and a test of what comes after it.", no_args_is_help=True
)

_STREAM = folder_of("stream.json", "images.csv", "monitor.html")


@monitor.command()
def fit(
    images: Annotated[Path, typer.Option("-i", help="Images that the model was not trained on: a folder.")],
    output: Annotated[Path, typer.Option("-o", help="The reference, a .json."), FILE],
    model: ModelAndFoldsFlags,
    prediction: MemberFlags,
    rate: Annotated[
        float, typer.Option("--rate", help="Of false alarms: the share of streams that ever sets one off."), RATE
    ] = 0.01,
    condition: Annotated[
        str, typer.Option("--condition", help="What the images are, in words.")
    ] = "images of the usual kind",
    patient: Annotated[
        str,
        typer.Option(
            "--patient", help="A regular expression whose first group is the patient in an image's name: '([^_]+)_'."
        ),
    ] = "",
) -> None:
    """Measure images of the usual kind, and what the model makes of them: the reference of all later checks.

    Example: nnunet-robust monitor fit -m MODEL -i usual_images -o reference.json
    """
    from nnunet_robust.deployment.drift import fitting
    from nnunet_robust.deployment.drift.measuring import new_images
    from nnunet_robust.deployment.drift.reference import check_rate
    from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads
    from nnunet_robust.eval.inference.loading import load_model
    from nnunet_robust.eval.inference.predictor import Predictor
    from nnunet_robust.eval.inference.training_cases import REFERENCE, check_not_trained_on

    if output.suffix != ".json":
        raise UserError(f"-o {output}: name the file that the reference goes into, such as reference.json")
    check_rate(rate)
    where = device_of(prediction.device)
    use_nnunets_threads(where)
    folder = model.one_folder()
    chosen = model.folds, model.checkpoint, where, prediction.mirroring, None
    loaded = load_model(folder, *chosen, trusted=model.trust_checkpoints)
    ending = str(loaded.predictor.dataset_json["file_ending"])
    found = new_images(images, ending, loaded.channels, patient)
    known, training = check_not_trained_on(found, loaded, REFERENCE)
    if not known:
        print(f"warning: {training}", file=sys.stderr)
    setup = {
        "folder": str(folder.absolute()),
        "checkpoint": model.checkpoint,
        "file_ending": ending,
        "channels": str(loaded.channels),
        "patient": patient,
        "training": training,
    }
    predictor = Predictor(loaded, prediction.members or ("folds", "mirroring"), prediction.precision)
    reference = fitting.fit(predictor, found, output, condition, rate, setup, bar("measuring"))
    left_out = f" ({reference.n_left_out} further images of these do not count)" if reference.n_left_out else ""
    print(
        f"{len(reference.images)} images of as many patients{left_out}, {len(reference.names)} features, false alarms "
        f"in {100 * rate:.3g} % of streams on average over references",
        file=sys.stderr,
    )
    print(output)


@monitor.command()
def check(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="What monitor fit has written.")],
    images: Annotated[Path, typer.Option("-i", help="A folder; what was seen before may be in it.")],
    output: Annotated[Path, typer.Option("-o", help="Folder of the stream: always the same."), _STREAM],
    execution: DeviceFlags,
    models: Annotated[list[Path] | None, typer.Option("-m", help="The trained model's folder.")] = None,
    order: Annotated[
        str, typer.Option("--order", help="In which new images came: by name, or by time of the files' last change.")
    ] = "name",
    trust_checkpoints: TrustFlag = False,
) -> None:
    """Take a folder's new images into the test; exit code 3: alarm, 1: images that cannot be measured, 0: neither.

    Example: nnunet-robust monitor check reference.json -i incoming -o monitor_of_scanner_A
    """
    from nnunet_robust.deployment.drift import checking, words
    from nnunet_robust.deployment.drift.reference import Reference
    from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads
    from nnunet_robust.eval.inference.loading import load_model
    from nnunet_robust.eval.inference.predictor import Predictor

    if models and len(models) > 1:
        raise UserError(f"{len(models)} models are named ({', '.join(map(str, models))}): a reference is of one")
    where = device_of(execution.device)

    def load(fitted: Reference) -> Predictor:
        use_nnunets_threads(where)
        given, setup = fitted.model, fitted.setup
        folder = models[0] if models else Path(setup["folder"])
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: say with -m where the model of {reference} is")
        chosen = given["fold"].split("+"), setup["checkpoint"], where, given["mirroring"], None
        model = load_model(folder, *chosen, trusted=trust_checkpoints)
        return checking.as_fitted(Predictor(model, given["members"], given["precision"]), fitted)

    done = checking.check(reference, images, output, load, bar("measuring"), order)
    for case, reason in done.failed.items():
        print(f"failed: {case}: {reason}", file=sys.stderr)
    print(*words.lines(done), output / checking.PAGE, sep="\n")
    if done.exit_code:
        raise typer.Exit(done.exit_code)
