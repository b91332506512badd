"""The commands `nnunet-robust synthesize` and `nnunet-robust convert`. Heavy imports stand inside the subcommands."""

from __future__ import annotations

import sys
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nnunet_robust.cli.checks import COUNT, LENGTH, SEED, SHARE, Within
from nnunet_robust.cli.options import Commands
from nnunet_robust.common.outputs import require_folder

synthesize = Commands(help="Make synthetic datasets of controlled difficulty.", no_args_is_help=True)
convert = Commands(help="Turn a published dataset into nnU-Net's raw format.", no_args_is_help=True)


class Direction(str, Enum):
    """Which texture bleeds into the other."""

    foreground = "foreground"
    background = "background"


class Shape(str, Enum):
    """How ragged the outline is."""

    easy = "easy"
    normal = "normal"
    hard = "hard"


class Solid(str, Enum):
    """What the object in a volume is."""

    sphere = "sphere"
    ellipsoid = "ellipsoid"
    cube = "cube"
    cylinder = "cylinder"
    torus = "torus"


_of_cases = partial(typer.Option, rich_help_panel="Cases")
_of_difficulty = partial(typer.Option, rich_help_panel="Difficulty")
_of_series = partial(typer.Option, rich_help_panel="Series of test sets")

_DatasetId = Annotated[int, typer.Option("--id", help="Id of the new dataset, 1 to 999."), Within(1, 999)]
_SyntheticName = Annotated[str | None, typer.Option(help="Name of the dataset; by default it tells the parameters.")]
_Direction = Annotated[Direction, _of_difficulty(help="Where the other texture bleeds in.")]
_Alpha = Annotated[float, _of_difficulty(help="Blending of textures in [0, 1]; higher is harder."), SHARE]
_TestAlphas = Annotated[
    list[float] | None, _of_series(help="Also a series of test sets, one for each alpha, several at once."), SHARE
]


@synthesize.command()
def textures(
    dataset_id: _DatasetId,
    alpha: _Alpha = 0.1,
    cases: Annotated[int, _of_cases(help="Training cases."), COUNT] = 60,
    test_cases: Annotated[int, _of_cases(help="Test cases."), Within(0, 1_000_000)] = 20,
    size: Annotated[int, _of_cases(help="Side of the square images, in pixels."), COUNT] = 128,
    foreground: Annotated[str, _of_difficulty(help="brick, grass, gravel, or an image file.")] = "brick",
    background: Annotated[str, _of_difficulty(help="brick, grass, gravel, or an image file.")] = "gravel",
    direction: _Direction = Direction.foreground,
    shape: Annotated[Shape, _of_difficulty(help="Outline of the objects.")] = Shape.normal,
    seed: Annotated[int, _of_cases(help="Seed of shapes and crops."), SEED] = 0,
    test_alphas: _TestAlphas = None,
    both_directions: Annotated[bool, _of_series("--both-directions", help="That series in both directions.")] = False,
    name: _SyntheticName = None,
) -> None:
    """Write a texture dataset: closed Bézier shapes of one texture on another, blended (Kamath et al. 2023).

    Example: nnunet-robust synthesize textures --id 501 --alpha 0.1 --test-alphas 0.1 0.5 0.9
    """
    from nnunet_robust.dataset_conversion.textures import TextureParameters, synthesize_textures

    parameters = TextureParameters(
        alpha=alpha, cases=cases, test_cases=test_cases, size=size, foreground=foreground, background=background,
        direction=direction.value, shape=shape.value, seed=seed, test_alphas=tuple(test_alphas or ()),
        both_directions=both_directions,
    )  # fmt: skip
    folder = synthesize_textures(_raw_folder(), dataset_id, parameters, name)
    print(f"{folder}\nnext: nnUNetv2_plan_and_preprocess -d {dataset_id} -c 2d")
    _print_series(folder)


@synthesize.command()
def volumes(
    dataset_id: _DatasetId,
    radius: Annotated[tuple[float, float], _of_difficulty(help="Least and greatest in training, mm."), LENGTH] = (
        25,
        34,
    ),
    test_radius: Annotated[tuple[float, float], _of_difficulty(help="The same in testing."), LENGTH] = (5, 47),
    cases: Annotated[int, _of_cases(help="Training cases; nnU-Net's folds split them 80 to 20."), COUNT] = 100,
    test_cases: Annotated[
        int, _of_cases(help="Test cases, and cases in each set of a series."), Within(0, 1_000_000)
    ] = 100,
    size: Annotated[
        list[int] | None, _of_cases(help="Voxels per axis: one number, or Z Y X; default 96."), COUNT
    ] = None,
    spacing: Annotated[tuple[float, float, float], _of_cases(help="Voxel size in mm: Z Y X."), LENGTH] = (1, 1, 1),
    shape: Annotated[Solid, _of_difficulty(help="The object; the radius is of the sphere around it.")] = Solid.sphere,
    foreground: Annotated[str | None, _of_difficulty(help="Its texture: brick, grass, gravel, an image file.")] = None,
    background: Annotated[str | None, _of_difficulty(help="The texture around it; without: 1 in noise.")] = None,
    alpha: _Alpha = 0.1,
    direction: _Direction = Direction.foreground,
    seed: Annotated[int, _of_cases(help="Seed of places, radii, noise and crops."), SEED] = 0,
    test_radii: Annotated[
        list[float] | None, _of_series(help="Also a series of test sets, one for each radius, several at once."), LENGTH
    ] = None,
    test_alphas: _TestAlphas = None,
    name: _SyntheticName = None,
) -> None:
    """Write a dataset of volumes: one object in noise, or of one texture in another (Kamath et al. 2022).

    Example: nnunet-robust synthesize volumes --id 511 --test-radii 5 25 45
    """
    from nnunet_robust.common.errors import UserError
    from nnunet_robust.dataset_conversion.volumes import VolumeParameters, synthesize_volumes

    sides = size or [96]
    if len(sides) not in (1, 3):
        raise UserError(f"--size takes one number or three (Z Y X), got {len(sides)}")
    parameters = VolumeParameters(
        cases=cases, test_cases=test_cases, size=(sides[0], sides[len(sides) // 2], sides[-1]), spacing_mm=spacing,
        radius_mm=radius, test_radius_mm=test_radius, shape=shape.value, foreground=foreground, background=background,
        alpha=alpha, direction=direction.value, seed=seed, test_radii_mm=tuple(test_radii or ()),
        test_alphas=tuple(test_alphas or ()),
    )  # fmt: skip
    folder = synthesize_volumes(_raw_folder(), dataset_id, parameters, name)
    print(f"{folder}\nnext: nnUNetv2_plan_and_preprocess -d {dataset_id} -c 3d_fullres")
    _print_series(folder)


def _print_series(folder: Path) -> None:
    if (folder / "series.csv").is_file():
        print(f"and when models are trained: nnunet-robust sweep --series {folder / 'series.csv'} ...")


_SourceFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The source, as its owner publishes it.")]
_DatasetName = Annotated[str | None, typer.Option(help="Name of the dataset; by default the source's.")]
_Cases = Annotated[
    int | None, typer.Option(help="The first so many cases; of a published test set as many at most."), COUNT
]
_TestShare = Annotated[float, typer.Option(help="Share of the training patients kept for testing, in [0, 1)."), SHARE]
_Seed = Annotated[int, typer.Option(help="Seed of the test cases' draw."), SEED]
_Strict = Annotated[bool, typer.Option("--strict", help="Refuse a source with any file that cannot be read.")]


@convert.command()
def busi(
    source: _SourceFolder,
    dataset_id: _DatasetId,
    name: _DatasetName = None,
    include_normal: Annotated[bool, typer.Option("--include-normal", help="Images without a lesion as well.")] = False,
    classes: Annotated[bool, typer.Option("--classes", help="Regions: lesion, and malignant within it.")] = False,
    test_share: Annotated[float, typer.Option(help="Share of each class kept for testing, in [0, 1)."), SHARE] = 0.2,
    seed: _Seed = 0,
    cases: _Cases = None,
    strict: _Strict = False,
) -> None:
    """BUSI: breast ultrasound, Dataset_BUSI_with_GT/{benign,malignant,normal}; an image's masks are joined.

    Example: nnunet-robust convert busi Dataset_BUSI_with_GT --id 510
    """
    from nnunet_robust.dataset_conversion.busi import BusiParameters, convert_busi

    parameters = BusiParameters(
        include_normal=include_normal, classes=classes, test_share=test_share, seed=seed, cases=cases
    )
    raw = _folders()
    _finish(convert_busi(raw, source, dataset_id, name, parameters, _note, strict))


@convert.command()
def glas(
    source: _SourceFolder,
    dataset_id: _DatasetId,
    name: _DatasetName = None,
    gray: Annotated[bool, typer.Option("--gray", help="One channel, the luminance; otherwise R, G and B.")] = False,
    boundary: Annotated[bool, typer.Option("--boundary", help="A third class where glands meet.")] = False,
    boundary_px: Annotated[
        float, typer.Option(help="With --boundary: how near another gland, in pixels."), LENGTH
    ] = 3.0,
    test_share: _TestShare = 0.0,
    seed: _Seed = 0,
    cases: _Cases = None,
    strict: _Strict = False,
) -> None:
    """GlaS: colon histology, train_N.bmp, testA_N.bmp and testB_N.bmp with _anno.bmp; the challenge's own split.

    Example: nnunet-robust convert glas GlaS --id 520 --gray
    """
    from nnunet_robust.dataset_conversion.glas import GlasParameters, convert_glas

    px = boundary_px if boundary else None
    parameters = GlasParameters(gray=gray, boundary_px=px, cases=cases, test_share=test_share, seed=seed)
    raw = _folders()
    _finish(convert_glas(raw, source, dataset_id, name, parameters, _note, strict))


class Slices(str, Enum):
    """The plane of 2d cases."""

    axial = "axial"


@convert.command()
def msd(
    source: _SourceFolder,
    dataset_id: _DatasetId,
    name: _DatasetName = None,
    test_share: _TestShare = 0.0,
    seed: _Seed = 0,
    slices: Annotated[Slices | None, typer.Option(help="A 2d case of every slice that shows the organ.")] = None,
    min_foreground: Annotated[
        float, typer.Option(help="Least share of foreground pixels in a slice; at 0, one pixel is enough."), SHARE
    ] = 0.0,
    cases: _Cases = None,
    strict: _Strict = False,
) -> None:
    """Medical Segmentation Decathlon: a task's folder with dataset.json, as volumes or as axial slices.

    Example: nnunet-robust convert msd Task04_Hippocampus --id 4 --test-share 0.2
    """
    from nnunet_robust.dataset_conversion.msd import MsdParameters, convert_msd

    plane = None if slices is None else slices.value
    parameters = MsdParameters(test_share, seed, plane, min_foreground, cases)
    raw = _folders()
    _finish(convert_msd(raw, source, dataset_id, name, parameters, _note, strict))


@convert.command()
def acdc(
    source: _SourceFolder,
    dataset_id: _DatasetId,
    name: _DatasetName = None,
    test_share: _TestShare = 0.0,
    seed: _Seed = 0,
    cases: _Cases = None,
    strict: _Strict = False,
) -> None:
    """ACDC: cardiac cine MRI, training/patient001 with Info.cfg; both labelled frames of each patient.

    Example: nnunet-robust convert acdc ACDC/database --id 540
    """
    from nnunet_robust.dataset_conversion.acdc import AcdcParameters, convert_acdc

    parameters = AcdcParameters(cases=cases, test_share=test_share, seed=seed)
    raw = _folders()
    _finish(convert_acdc(raw, source, dataset_id, name or "ACDC", parameters, _note, strict))


def _raw_folder(variable: str = "nnUNet_raw") -> Path:
    """One of nnU-Net's folders, which must be writable."""
    from nnunet_robust.common.folders import nnunet_folder

    folder = nnunet_folder(variable)
    require_folder(f"{variable}:", folder, f"set {variable} to a folder of yours")
    return folder


def _folders() -> Path:
    """The folder of raw datasets; that of their folds, which are installed at the end, must be writable, too."""
    _raw_folder("nnUNet_preprocessed")
    return _raw_folder()


def _note(line: str) -> None:
    print(line, file=sys.stderr)


def _finish(folder: Path) -> None:
    """End a conversion: the folds where nnU-Net reads them, the summary, and exit code 1 if something is left out."""
    from nnunet_robust.dataset_conversion.splits import install_splits
    from nnunet_robust.dataset_conversion.summary import print_summary
    from nnunet_robust.dataset_conversion.writer import read_left_out

    install_splits(folder)
    print_summary(folder)
    if left_out := read_left_out(folder):
        print(f"WARNING: {len(left_out)} left out, see 'left_out' in {folder / 'dataset.json'}", file=sys.stderr)
        raise typer.Exit(1)
