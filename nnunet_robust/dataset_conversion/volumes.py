"""Synthetic volumes: one object at a random place in noise, whose size at test time is not that of the training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.memory import require_memory
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.dataset_conversion.series import SeriesSet, check_levels, series_writer
from nnunet_robust.dataset_conversion.solids import SOLIDS, draw_solid, extent_mm, random_rotation
from nnunet_robust.dataset_conversion.textures import (
    ALPHA_UNITS,
    FEWEST_CASES,
    SMALLEST_SIZE,
    Direction,
    Part,
    blend,
    camel,
    crop_columns,
    describe_photograph,
    read_photograph,
)
from nnunet_robust.dataset_conversion.writer import JSON, Case, write_dataset

OBJECT = 255
"""The object's value, the papers' 1: volumes are stored as uint8, in steps of 1/255."""

NOISE = 204
"""The highest value of the noise, the papers' 0.8."""

RADIUS_UNIT = "radius in mm"
_BYTES_A_VOXEL = 58  # measured: of a cylinder, whose drawing takes the least memory of all shapes


@dataclass(frozen=True)
class VolumeParameters:
    """What a dataset of volumes is made from.

    Attributes:
        cases: number of training cases, at least 5: nnU-Net splits them into five folds.
        test_cases: number of test cases, and of cases in each test set of a series.
        size: voxels per axis (z, y, x), each at least 32.
        spacing_mm: voxel size per axis; shapes are drawn in mm, so that a sphere stays one.
        radius_mm: least and greatest radius of the training objects, or of the sphere around them.
        test_radius_mm: the same for the test cases.
        shape: a row of `solids.SOLIDS`, turned at random.
        foreground: a texture inside the object: a name from `textures.PHOTOGRAPHS`, or an image file; None for an
            object of value 1 in noise.
        background: the texture around it; goes with `foreground`.
        alpha: how far one texture bleeds into the other, in [0, 1]; higher is harder. Unused without textures.
        direction: as in `textures.TextureParameters`.
        seed: of places, radii, rotations, noise and crops.
        test_radii_mm: of a series of further test sets, one for each.
        test_alphas: the same for the blending of textures.

    Raises:
        UserError: a value is out of its range.
    """

    cases: int = 100
    test_cases: int = 100
    size: tuple[int, int, int] = (96, 96, 96)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    radius_mm: tuple[float, float] = (25.0, 34.0)
    test_radius_mm: tuple[float, float] = (5.0, 47.0)
    shape: str = "sphere"
    foreground: str | None = None
    background: str | None = None
    alpha: float = 0.1
    direction: Direction = "foreground"
    seed: int = 0
    test_radii_mm: tuple[float, ...] = ()
    test_alphas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field, low in {"cases": FEWEST_CASES, "test_cases": 0}.items():
            if getattr(self, field) < low:
                raise UserError(f"{field} must be at least {low}, got {getattr(self, field)}")
        if min(self.size) < SMALLEST_SIZE:
            raise UserError(f"size must be at least {SMALLEST_SIZE} along each axis, got {_listed(self.size)}")
        require_memory(f"--size {_listed(self.size)}", _BYTES_A_VOXEL * math.prod(self.size), "take smaller volumes")
        if not all(0 < value < np.inf for value in self.spacing_mm):
            raise UserError(f"spacing must be a positive number of mm along each axis, got {_listed(self.spacing_mm)}")
        if self.shape not in SOLIDS:
            raise UserError(f"shape must be one of {', '.join(SOLIDS)}, got {self.shape!r}")
        if (self.foreground is None) != (self.background is None):
            raise UserError("--foreground and --background go together: give two textures or none")
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha must be in [0, 1], got {self.alpha}")
        if self.test_alphas and self.foreground is None:
            raise UserError("--test-alphas blend textures: give --foreground and --background")
        smallest, largest = self.radius_bounds_mm
        for option, (low_mm, high_mm) in {"--radius": self.radius_mm, "--test-radius": self.test_radius_mm}.items():
            if not smallest <= low_mm <= high_mm <= largest:
                raise UserError(
                    f"{option} must be two rising numbers of mm in [{smallest:g}, {largest:g}], so that the object is "
                    f"seen and wholly inside, got {low_mm:g} {high_mm:g}"
                )
        check_levels(self.test_radii_mm, smallest, largest, "--test-radii", self.test_cases)
        check_levels(self.test_alphas, 0, 1, "--test-alphas", self.test_cases)

    @property
    def radius_bounds_mm(self) -> tuple[float, float]:
        """The least radius at which every shape has voxels, and the greatest that fits into the volume."""
        return 1.5 * max(self.spacing_mm), float(extent_mm(self.size, self.spacing_mm).min()) / 2

    @property
    def dataset_name(self) -> str:
        """The dataset's name: shape, training radii, textures: `VolumeTorusR25to34BrickGravelA10`."""
        low, high = (f"{radius:g}".replace(".", "p") for radius in self.radius_mm)
        name = f"Volume{self.shape.capitalize()}R{low}to{high}"
        if self.foreground is None or self.background is None:
            return name
        percent = f"{100 * self.alpha:g}".replace(".", "p")
        direction = "IntoBackground" if self.direction == "background" else ""
        return f"{name}{camel(self.foreground)}{camel(self.background)}A{percent}{direction}"


def synthesize_volumes(
    raw_folder: Path, dataset_id: int, parameters: VolumeParameters | None = None, name: str | None = None
) -> Path:
    """Write a dataset of volumes in nnU-Net's raw format: uint8 `.nii.gz`, label 1 inside one object.

    Without textures every voxel of the object is 1 (stored as 255), and every other is drawn from [0, 0.8] (0 to 204).
    The object's place is uniform among those where it is wholly inside, its radius uniform in its range.

    With textures, each slice along z is a crop of a photograph, whose place drifts from slice to slice by a random
    walk, about a pixel a mm: in-plane it is the photograph, along z it changes slowly. Training crops come from the
    left of the photographs, test crops from the right.

    Everything random depends on the seed, the part and the case's number only. Cases of the same number in datasets or
    test sets that differ in alpha, radius or shape are paired: the same relative place, rotation, noise and crops.

    Args:
        raw_folder: nnU-Net's folder of raw datasets.
        dataset_id: 1 to 999.
        parameters: what to make; None for the defaults, the paper's.
        name: of the dataset; None for `parameters.dataset_name`.

    Returns:
        The dataset's folder, with a `series.csv` where there are `test_radii_mm` or `test_alphas`; their perturbations
        are called `radius` and `foreground_alpha` or `background_alpha`. One that was made from the same parameters is
        left as it is.

    Raises:
        UserError: a photograph cannot be read or is too small, both are the same, or the id is taken.

    Reference: Kamath et al., "How do 3D image segmentation networks behave across the context versus foreground ratio
    trade-off?", Medical Imaging Meets NeurIPS 2022. Theirs were split 70 to 30; nnU-Net's folds are 80 to 20.
    """
    parameters = parameters or VolumeParameters()
    recorded: dict[str, JSON] = asdict(parameters)
    photographs: tuple[np.ndarray, np.ndarray] | None = None
    if parameters.foreground is not None and parameters.background is not None:
        photographs = read_photograph(parameters.foreground), read_photograph(parameters.background)
        if np.array_equal(*photographs):
            raise UserError(f"foreground and background are both {parameters.foreground!r}: choose two textures")
        given = {"foreground": parameters.foreground, "background": parameters.background}
        for (role, texture), photograph in zip(given.items(), photographs, strict=True):
            crop_columns(photograph.shape, max(parameters.size[1:]), "train", texture)  # refuses one that is too small
            recorded[role] = describe_photograph(texture, photograph)
    return write_dataset(
        raw_folder,
        dataset_id,
        name or parameters.dataset_name,
        _cases(parameters, "train", photographs),
        _cases(parameters, "test", photographs),
        channel_names={0: "grey"},
        labels={"background": 0, "foreground": 1},
        file_ending=".nii.gz",
        provenance={"source": "synthetic volumes, Kamath et al. 2022", "parameters": recorded},
        beside=series_writer(_series(parameters, photographs), label_values=(0, 1), file_ending=".nii.gz"),
    )


def _cases(
    parameters: VolumeParameters, part: Part, photographs: tuple[np.ndarray, np.ndarray] | None
) -> Iterator[Case]:
    """Make the cases of one part, one at a time."""
    prefix, count, radii = {
        "train": ("volume", parameters.cases, parameters.radius_mm),
        "test": ("volume_test", parameters.test_cases, parameters.test_radius_mm),
    }[part]
    for index in range(count):
        what = (parameters.seed, "volumes", part, index)
        rng = numpy_generator(*what)
        radius_mm = float(rng.uniform(*radii))
        centre_mm = radius_mm + rng.random(3) * (extent_mm(parameters.size, parameters.spacing_mm) - 2 * radius_mm)
        mask = draw_solid(
            parameters.shape, parameters.size, parameters.spacing_mm, centre_mm, radius_mm, random_rotation(rng)
        )
        rng = numpy_generator(*what, "values")
        if photographs is None:
            noise = rng.integers(NOISE, size=parameters.size, dtype=np.uint8, endpoint=True)
            image = np.where(mask, np.uint8(OBJECT), noise)
        else:
            inside, outside = (_drifting_texture(photograph, parameters, part, rng) for photograph in photographs)
            image = blend(inside, outside, mask, parameters.alpha, parameters.direction)
        yield Case(f"{prefix}_{index:04d}", [image], mask.astype(np.uint8), spacing_mm=parameters.spacing_mm)


def _drifting_texture(
    photograph: np.ndarray, parameters: VolumeParameters, part: Part, rng: np.random.Generator
) -> np.ndarray:
    """Cut a crop of a photograph for each slice, at a place that walks at random and is reflected at the borders."""
    depth, height, width = parameters.size
    first, last = crop_columns(photograph.shape, max(height, width), part)
    room = np.array([photograph.shape[0] - height, last - first - width])
    stride = max(1, round(parameters.spacing_mm[0] / np.mean(parameters.spacing_mm[1:])))
    start = rng.integers(room, endpoint=True)
    walk = start + np.cumsum(rng.integers(-stride, stride, size=(depth, 2), endpoint=True), axis=0)
    period = np.maximum(2 * room, 1)
    places = room - np.abs(room - walk % period)
    return np.stack([photograph[row : row + height, first + column : first + column + width] for row, column in places])


def _series(parameters: VolumeParameters, photographs: tuple[np.ndarray, np.ndarray] | None) -> list[SeriesSet]:
    """Make the test cases at each of `test_radii_mm` and of `test_alphas`."""
    by_radius = [
        SeriesSet(
            "radius",
            radius,
            RADIUS_UNIT,
            _cases(replace(parameters, test_radius_mm=(radius, radius)), "test", photographs),
        )
        for radius in parameters.test_radii_mm
    ]
    by_alpha = [
        SeriesSet(
            f"{parameters.direction}_alpha",
            alpha,
            ALPHA_UNITS[parameters.direction],
            _cases(replace(parameters, alpha=alpha), "test", photographs),
        )
        for alpha in parameters.test_alphas
    ]
    return by_radius + by_alpha


def _listed(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
