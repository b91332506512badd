"""The command line of denoising for prediction: denoise. Heavy imports stand inside the subcommand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nnunet_robust.cli.options import FOLDER, Commands, ModelAndFoldsFlags, NewImages
from nnunet_robust.common.console import bar
from nnunet_robust.common.errors import UserError

denoising = Commands()


@denoising.command(rich_help_panel="New images")
def denoise(
    images: NewImages,
    output: Annotated[Path, typer.Option("-o", help="Folder of the images for nnUNetv2_predict."), FOLDER],
    model: ModelAndFoldsFlags,
    sweep: Annotated[
        Path | None, typer.Option("--from", metavar="OUT", help="A sweep of the model under noise: what it tolerates.")
    ] = None,
    always: Annotated[bool, typer.Option("--always", help="Every image, whatever its noise.")] = False,
) -> None:
    """Denoise what is noisier than the model tolerates, copy the other images; exit code 1 where one cannot be read.

    Example: nnunet-robust denoise -i new_images -o denoised -m MODEL --from OUT
    """
    import torch

    from nnunet_robust.eval.denoising.denoiser import Denoiser
    from nnunet_robust.eval.denoising.folder import RECORD, denoise_folder
    from nnunet_robust.eval.denoising.learned_tolerance import learn
    from nnunet_robust.eval.images.image_files import find_images
    from nnunet_robust.eval.inference.loading import load_model
    from nnunet_robust.eval.statistics.earlier_sweep import EarlierSweep

    if (sweep is None) != always:
        raise UserError(
            "give --from OUT, the folder of a sweep of this model under noise, or --always, and not both: OUT tells "
            "how much noise the model bears"
        )
    chosen = model.folds, model.checkpoint, torch.device("cpu"), True, None
    loaded = load_model(model.one_folder(), *chosen, trusted=model.trust_checkpoints)
    denoiser = Denoiser(background=loaded.background("auto"))
    if sweep is not None:
        earlier = EarlierSweep.open("--from", sweep)
        key = earlier.key_of(loaded.trainer, loaded.checkpoints, loaded.arm["tile_size"])
        denoiser = Denoiser(learn(earlier, key), loaded.background(earlier.manifest.identity.background_then))
        assert denoiser.tolerance is not None
        print(denoiser.tolerance.sentence(loaded.trainer), file=sys.stderr)
    ending = loaded.predictor.dataset_json["file_ending"]
    found = find_images(images, ending, loaded.channels)
    if output.resolve() in {path.resolve().parent for image in found for path in image.images}:
        raise UserError(f"-o {output} is the folder of the images: take another, they are not overwritten")
    done, failed = denoise_folder(found, output, loaded, denoiser, bar("denoising"))
    for reason in failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    count = sum(one.denoised for one in done.values())
    print(f"{len(done)} images: {count} denoised, {len(done) - count} copied as they are; see {output / RECORD}")
    print(f"next: nnUNetv2_predict -i {output} ...")
    if failed:
        raise typer.Exit(1)
