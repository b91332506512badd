"""The command line of denoising for prediction: denoise. Heavy imports stand inside the subcommand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nnunet_robust.cli.deployment import (
    Checkpoint,
    Configuration,
    Dataset,
    Folds,
    Images,
    Models,
    Plans,
    Trainers,
    one_model_folder,
)
from nnunet_robust.common.console import bar
from nnunet_robust.common.errors import UserError

denoising = typer.Typer()


@denoising.command()
def denoise(
    images: Images,
    output: Annotated[Path, typer.Option("-o", help="Folder of the images for nnUNetv2_predict.")],
    models: Models = None,
    dataset: Dataset = None,
    configuration: Configuration = "2d",
    trainers: Trainers = None,
    plans: Plans = "nnUNetPlans",
    folds: Folds = None,
    checkpoint: Checkpoint = "checkpoint_final.pth",
    sweep: Annotated[
        Path | None, typer.Option("--from", metavar="OUT", help="A sweep of the model under noise: what it bears.")
    ] = None,
    always: Annotated[bool, typer.Option("--always", help="Every image, whatever its noise.")] = False,
) -> None:
    """Denoise the images that are noisier than the model bears, copy the rest; exit code 1 where one cannot be read."""
    import torch

    from nnunet_robust.eval.denoising.denoiser import Denoiser
    from nnunet_robust.eval.denoising.folder import RECORD, denoise_folder
    from nnunet_robust.eval.denoising.learned_tolerance import learn
    from nnunet_robust.eval.images.image_files import find_images
    from nnunet_robust.eval.inference.models import load_model
    from nnunet_robust.eval.statistics.earlier_sweep import EarlierSweep

    if (sweep is None) != always:
        raise UserError(
            "give --from OUT, the folder of a sweep of this model under noise, or --always, and not both: OUT tells "
            "how much noise the model bears"
        )
    folder = one_model_folder(models, dataset, trainers, plans, configuration)
    model = load_model(folder, folds, checkpoint, torch.device("cpu"), True, None)
    denoiser = Denoiser()
    if sweep is not None:
        earlier = EarlierSweep.open("--from", sweep)
        key = earlier.key_of(model.trainer, model.checkpoints, model.arm["tile_size"])
        denoiser = Denoiser(learn(earlier, key))
        assert denoiser.tolerance is not None
        print(denoiser.tolerance.sentence(model.trainer), file=sys.stderr)
    ending = model.predictor.dataset_json["file_ending"]
    found = find_images(images, ending)
    if output.resolve() in {path.resolve().parent for image in found for path in image.images}:
        raise UserError(f"-o {output} is the folder of the images: take another, they are not overwritten")
    done, failed = denoise_folder(found, output, model, denoiser, bar("denoising"))
    for reason in failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    count = sum(one.denoised for one in done.values())
    print(f"{len(done)} images: {count} denoised, {len(done) - count} copied as they are; see {output / RECORD}")
    print(f"next: nnUNetv2_predict -i {output} ...")
    if failed:
        raise typer.Exit(1)
