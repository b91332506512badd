"""Synthetic textures: segmentation tasks whose difficulty is one number, how far two photographs are blended."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.dataset_conversion.series import SeriesSet, check_levels, series_writer
from nnunet_robust.dataset_conversion.shapes import SHAPES, Difficulty, bezier_shape
from nnunet_robust.dataset_conversion.writer import JSON, Case, write_dataset

Direction = Literal["foreground", "background"]
Part = Literal["train", "test"]

PHOTOGRAPHS = ("brick", "grass", "gravel")
"""Textures in scikit-image's own package, 512 x 512 pixels each, CC0: nothing is downloaded."""

TEST_SHARE = 0.3
"""The share of a photograph's width that is cut off on the right for the test cases."""

ALPHA_UNITS: dict[Direction, str] = {
    "foreground": "share of background in the foreground",
    "background": "share of foreground in the background",
}

SMALLEST_SIZE = 32
FEWEST_CASES = 5


@dataclass(frozen=True)
class TextureParameters:
    """What a texture dataset is made from.

    Attributes:
        alpha: how far one texture bleeds into the other, in [0, 1]; higher is harder, and at 1 nothing shows the mask.
        cases: number of training cases, at least 5: nnU-Net splits them into five folds.
        test_cases: number of test cases.
        size: side of the square images in pixels, at least 32.
        foreground: the texture inside the mask: a name from `PHOTOGRAPHS`, or an image file (read as 8-bit grey).
        background: the texture around it.
        direction: "foreground" blends the background into the foreground, "background" the other way round.
        shape: the masks, a row of `shapes.SHAPES`.
        seed: of shapes and crops.
        test_alphas: of a series of further test sets, one for each, of `test_cases` cases: the same shapes and crops.
        both_directions: makes the series twice, once in each direction.

    Raises:
        UserError: a value is out of its range.
    """

    alpha: float = 0.1
    cases: int = 60
    test_cases: int = 20
    size: int = 128
    foreground: str = "brick"
    background: str = "gravel"
    direction: Direction = "foreground"
    shape: Difficulty = "normal"
    seed: int = 0
    test_alphas: tuple[float, ...] = ()
    both_directions: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha must be in [0, 1], got {self.alpha}")
        lowest = {"cases": FEWEST_CASES, "test_cases": 0, "size": SMALLEST_SIZE}
        for field, low in lowest.items():
            if getattr(self, field) < low:
                raise UserError(f"{field} must be at least {low}, got {getattr(self, field)}")
        if self.direction not in get_args(Direction):
            raise UserError(f"direction must be one of {', '.join(get_args(Direction))}, got {self.direction!r}")
        if self.shape not in SHAPES:
            raise UserError(f"shape must be one of {', '.join(SHAPES)}, got {self.shape!r}")
        check_levels(self.test_alphas, 0, 1, "--test-alphas", self.test_cases)
        if self.both_directions and not self.test_alphas:
            raise UserError("--both-directions needs the alphas of the test sets: give --test-alphas")

    @property
    def dataset_name(self) -> str:
        """The dataset's name: textures, alpha in percent, and what is not default: `TextureBrickGravelA10Hard`."""
        percent = f"{100 * self.alpha:.4f}".rstrip("0").rstrip(".").replace(".", "p")
        direction = "IntoBackground" if self.direction == "background" else ""
        shape = "" if self.shape == "normal" else self.shape.capitalize()
        return f"Texture{camel(self.foreground)}{camel(self.background)}A{percent}{direction}{shape}"


def synthesize_textures(
    raw_folder: Path, dataset_id: int, parameters: TextureParameters | None = None, name: str | None = None
) -> Path:
    """Write a texture dataset in nnU-Net's raw format: 8-bit grey PNGs, label 1 inside a random Bézier shape.

    Training crops come from the left of the photographs, test crops from the right: no pixel is in both. A case's
    shape and crops depend on the seed, its part and its number, not on alpha: datasets that differ in alpha only are
    paired, case by case, and what differs between them is the blend alone. So are the test sets of a series
    (`test_alphas`), which lie in the dataset's folder, with a `series.csv` for `nnunet-robust sweep --series`; their
    perturbation is called `foreground_alpha` or `background_alpha`, by the direction.

    Args:
        raw_folder: nnU-Net's folder of raw datasets.
        dataset_id: 1 to 999.
        parameters: what to make; None for the defaults.
        name: of the dataset; None for `parameters.dataset_name`.

    Returns:
        The dataset's folder. One that was made from the same parameters is left as it is.

    Raises:
        UserError: a photograph cannot be read or is too small, both are the same, or the id is taken.

    Reference: Kamath et al., "Do we really need that skip-connection? Understanding its interplay with task
    complexity", MICCAI 2023.
    """
    parameters = parameters or TextureParameters()
    foreground, background = read_photograph(parameters.foreground), read_photograph(parameters.background)
    if np.array_equal(foreground, background):
        raise UserError(f"foreground and background are both {parameters.foreground!r}: choose two textures")
    recorded: dict[str, JSON] = asdict(parameters)
    if not parameters.test_alphas:
        del recorded["test_alphas"], recorded["both_directions"]
    for role, given, photograph in (
        ("foreground", parameters.foreground, foreground),
        ("background", parameters.background, background),
    ):
        crop_columns(photograph.shape, parameters.size, "train", given)  # refuses one that is too small
        recorded[role] = describe_photograph(given, photograph)
    return write_dataset(
        raw_folder,
        dataset_id,
        name or parameters.dataset_name,
        _cases(parameters, "train", foreground, background),
        _cases(parameters, "test", foreground, background),
        channel_names={0: "grey"},
        labels={"background": 0, "foreground": 1},
        file_ending=".png",
        provenance={"source": "synthetic textures, Kamath et al. 2023", "parameters": recorded},
        beside=series_writer(_series(parameters, foreground, background), label_values=(0, 1), file_ending=".png"),
    )


def blend(
    foreground: np.ndarray, background: np.ndarray, mask: np.ndarray, alpha: float, direction: Direction
) -> np.ndarray:
    """Put one texture inside the mask and the other around it, and let one bleed into the other.

    "foreground": `(1 - alpha) * foreground + alpha * background` inside, `background` outside.
    "background": `foreground` inside, `(1 - alpha) * background + alpha * foreground` outside.

    Args:
        foreground: (H, W) uint8.
        background: (H, W) uint8.
        mask: (H, W) bool, True inside.
        alpha: in [0, 1]; at 1 the image is one texture throughout.
        direction: which side is blended.

    Returns:
        (H, W) uint8, rounded to the nearest.

    >>> white, black = np.full((1, 2), 255, np.uint8), np.zeros((1, 2), np.uint8)
    >>> blend(white, black, np.array([[True, False]]), alpha=0.8, direction="foreground").tolist()
    [[51, 0]]
    """
    fg: np.ndarray = foreground.astype(np.float64)
    bg: np.ndarray = background.astype(np.float64)
    inside = (1 - alpha) * fg + alpha * bg if direction == "foreground" else fg
    outside = (1 - alpha) * bg + alpha * fg if direction == "background" else bg
    return np.rint(np.where(mask, inside, outside)).clip(0, 255).astype(np.uint8)


def crop_columns(shape: tuple[int, int], size: int, part: Part, name: str = "the photograph") -> tuple[int, int]:
    """Return the columns `[first, last)` of a photograph that a part's crops may use; the two parts' are disjoint.

    The test strip is `TEST_SHARE` of the width, or `size` where that is more, on the right; the rest is for training.

    Args:
        shape: (H, W) of the photograph.
        size: side of the square crops in pixels.
        part: "train" or "test".
        name: what to call the photograph in an error.

    Raises:
        UserError: the photograph is too small for crops of this size; says which size works.
    """
    height, width = shape
    largest = min(height, width // 2)
    if size > largest:
        raise UserError(
            f"size {size} is too large for {name!r}, whose {height} x {width} pixels are split into a training and "
            f"a test part: the largest size that works is {largest}"
        )
    split = width - max(round(TEST_SHARE * width), size)
    return (0, split) if part == "train" else (split, width)


def _cases(parameters: TextureParameters, part: Part, foreground: np.ndarray, background: np.ndarray) -> Iterator[Case]:
    """Make the cases of one part, one at a time."""
    prefix, count = {"train": ("texture", parameters.cases), "test": ("texture_test", parameters.test_cases)}[part]
    for index in range(count):
        rng = numpy_generator(parameters.seed, "textures", part, index)  # without alpha, so that alphas are paired
        # The crops first: a shape takes a varying number of draws, and crops are to be paired over shapes as well.
        fg = _random_crop(foreground, parameters.size, part, rng)
        bg = _random_crop(background, parameters.size, part, rng)
        mask = bezier_shape((parameters.size, parameters.size), rng, parameters.shape)
        image = blend(fg, bg, mask, parameters.alpha, parameters.direction)
        yield Case(f"{prefix}_{index:04d}", [image], mask.astype(np.uint8))


def _series(parameters: TextureParameters, foreground: np.ndarray, background: np.ndarray) -> list[SeriesSet]:
    """Make the test cases at each of `test_alphas`."""
    directions = get_args(Direction) if parameters.both_directions else (parameters.direction,)
    return [
        SeriesSet(
            f"{direction}_alpha",
            alpha,
            ALPHA_UNITS[direction],
            _cases(replace(parameters, alpha=alpha, direction=direction), "test", foreground, background),
        )
        for direction in directions
        for alpha in parameters.test_alphas
    ]


def _random_crop(photograph: np.ndarray, size: int, part: Part, rng: np.random.Generator) -> np.ndarray:
    """Cut a square out of the part's columns."""
    first, last = crop_columns(photograph.shape, size, part)
    row = rng.integers(photograph.shape[0] - size, endpoint=True)
    column = rng.integers(first, last - size, endpoint=True)
    return photograph[row : row + size, column : column + size]


def read_photograph(name: str) -> np.ndarray:
    """Read a photograph (H, W) in 8-bit grey: one of scikit-image's, or a file's."""
    from skimage import color, data
    from skimage.io import imread
    from skimage.util import img_as_ubyte

    if name in PHOTOGRAPHS:
        return getattr(data, name)()
    path = Path(name)
    if not path.is_file():
        raise UserError(f"no such texture: {name!r}; give one of {', '.join(PHOTOGRAPHS)} or an image file")
    try:
        image = np.asarray(imread(path))
        if image.ndim == 3 and image.shape[-1] == 4:
            image = color.rgba2rgb(image)
        if image.ndim == 3 and image.shape[-1] == 3:
            image = color.rgb2gray(image)
        image = img_as_ubyte(image)
    except Exception as error:  # the readers that imread tries raise all kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read {name!r} as an image: {reason}") from error
    if image.ndim != 2:
        raise UserError(f"{name!r} is no grey or colour image: it is read as an array of shape {image.shape}")
    return image


def describe_photograph(given: str, photograph: np.ndarray) -> dict[str, str]:
    """Describe a photograph for a dataset's record: by its hash and without its path, which does not matter."""
    digest = hashlib.sha256(repr(photograph.shape).encode() + photograph.tobytes()).hexdigest()
    return {"name": Path(given).name, "pixels_sha256": digest}


def camel(name: str) -> str:
    """Return a texture's name as a part of a dataset's name.

    >>> camel("brick"), camel("/some/my photo-2.png")
    ('Brick', 'MyPhoto2')
    """
    words = re.findall(r"[A-Za-z0-9]+", Path(name).stem)
    return "".join(word[0].upper() + word[1:] for word in words) or "Photo"
