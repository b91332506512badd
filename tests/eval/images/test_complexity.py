"""Texture divergence and boundary contrast: against scikit-image by hand, on blended textures, and where they fail."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import jensenshannon
from skimage import data
from skimage.draw import disk
from skimage.feature import local_binary_pattern
from skimage.transform import resize
from skimage.util import img_as_float

from nnunet_robust.cli.main import main
from nnunet_robust.dataset_conversion.textures import Direction, blend
from nnunet_robust.dataset_conversion.writer import Case, write_dataset
from nnunet_robust.eval.images import complexity
from nnunet_robust.eval.images.complexity import (
    BINS,
    FEWEST_CODES,
    SIDE,
    VARIANTS,
    Complexity,
    ComplexityMeter,
    Variant,
    grey_range,
    published_divergence,
    symmetric_divergence,
    to_grey,
)

ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.98)


def of(image: np.ndarray, mask: np.ndarray, variant: Variant = "symmetric", **options: object) -> Complexity:
    """The complexity of a mask in one channel; unit spacing unless `spacing_mm` is given."""
    spacing = options.pop("spacing_mm", (1.0,) * mask.ndim)
    image = image[None].astype(np.float32)
    meter = ComplexityMeter(image, mask.astype(int), {"x": [1]}, spacing, variant=variant, **options)  # type: ignore
    return meter.measure(image)["x"]


def round_mask(shape: tuple[int, int], radius: float = 60, centre: tuple[int, int] | None = None) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[disk(centre or (shape[0] // 2, shape[1] // 2), radius, shape=shape)] = True
    return mask


def textured(alpha: float, direction: Direction, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One of a few crops of two photographs, blended."""
    rng = np.random.default_rng(index)
    crops = []
    for photograph in (data.brick(), data.grass()):
        i, j = rng.integers(0, 256, 2)
        crops.append(photograph[i : i + 256, j : j + 256])
    mask = round_mask((256, 256), 55, tuple(rng.integers(90, 166, 2)))
    return blend(crops[0], crops[1], mask, alpha, direction), mask


def papers_code(image: np.ndarray, label: np.ndarray) -> float:
    """The published measure, written from its description with scikit-image and NumPy alone."""
    small = resize(image, (256, 256), anti_aliasing=True)
    inside = resize(label, (256, 256), anti_aliasing=False) > 0
    with pytest.warns(UserWarning, match="local_binary_pattern"):
        codes = local_binary_pattern(small, 24, 3, "uniform")
    p, q = (np.histogram(codes[side], 26, (0, 26), density=True)[0] for side in (inside, ~inside))
    return sum(a * math.log2(a / b) for a, b in zip(p, q, strict=True) if a > 0 and b > 0)


@pytest.mark.parametrize("shape", [(256, 256), (128, 128), (500, 331)])
def test_published_is_the_papers_code(shape: tuple[int, int]) -> None:
    image = np.where(round_mask(shape, 40), data.brick()[: shape[0], : shape[1]], data.grass()[: shape[0], : shape[1]])
    mask = round_mask(shape, 40)
    expected = papers_code(image, mask.astype(np.uint8) * 255)
    assert of(image, mask, "published").texture_divergence_bits == pytest.approx(expected, abs=1e-12)
    assert expected > 0.05


def test_symmetric_against_scikit_image_and_scipy() -> None:
    """Few-line computation: codes more than the circle's reach away from the border; SciPy's Jensen-Shannon."""
    image, mask = textured(0.1, "foreground", 0)
    codes = local_binary_pattern(image, 24, 3, "uniform").astype(int)
    inside, outside = (np.pad(side, 3)[3:-3, 3:-3] & (_chessboard_distance(side) > 3) for side in (mask, ~mask))
    counts = [np.bincount(codes[side], minlength=26) for side in (inside, outside)]
    found = of(image, mask)
    assert (found.inside_codes, found.outside_codes) == (inside.sum(), outside.sum())
    raw = jensenshannon(*counts, base=2) ** 2  # SciPy gives the square root
    # smoothing and the correction are small for so many codes
    assert found.texture_divergence_bits == pytest.approx(raw, abs=0.003)
    assert found.texture_divergence_bits == symmetric_divergence(*counts)


def _chessboard_distance(region: np.ndarray) -> np.ndarray:
    """To the nearest pixel of another region or beyond the image."""
    return ndimage.distance_transform_cdt(np.pad(region, 1), "chessboard")[1:-1, 1:-1]


def test_symmetric_divergence_by_hand() -> None:
    inside, outside = np.zeros(BINS, int), np.zeros(BINS, int)
    inside[[0, 1]] = 300, 100
    outside[[0, 1]] = 400, 1200
    # p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2); 13 pseudo-codes each: half way to m by 13 / (n + 13)
    a = 0.5 + 0.25 * 400 / 413
    b = 0.5 - 0.25 * 1600 / 1613
    m = (a + b) / 2
    terms = [(a, m), (1 - a, 1 - m), (b, m), (1 - b, 1 - m)]
    divergence = sum(x * math.log2(x / y) for x, y in terms) / 2
    chance = ((400 / 413 + 1600 / 1613) / 2) ** 2 * 1 * (1 / 400 + 1 / 1600) / (8 * math.log(2))
    assert symmetric_divergence(inside, outside) == pytest.approx(divergence - chance, abs=1e-12)
    assert symmetric_divergence(outside, inside) == pytest.approx(symmetric_divergence(inside, outside), abs=1e-12)


def test_what_is_taken_off_is_what_chance_gives() -> None:
    """Monte Carlo: samples of one distribution; uncorrected, 200 codes a side give 0.04 bits."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(BINS, 2.0))
    draws = [[rng.multinomial(n, probabilities) for n in (200, 900)] for _ in range(400)]
    assert np.mean([jensenshannon(a, b, base=2) ** 2 for a, b in draws]) > 0.02
    assert np.mean([symmetric_divergence(a, b) for a, b in draws]) < 0.004


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("direction", ["foreground", "background"])
def test_it_falls_with_alpha(direction: Direction, variant: Variant) -> None:
    means = [
        np.mean([of(*textured(alpha, direction, i), variant).texture_divergence_bits for i in range(4)])
        for alpha in ALPHAS
    ]
    assert np.all(np.diff(means[:-1]) < 0), means
    assert means[-1] < means[-2] + 1e-4  # both are at what two places of one photograph differ by
    assert means[-1] < 0.15 * means[0]


@pytest.mark.parametrize("photograph", [data.brick, data.grass, data.gravel])
def test_identical_textures_are_near_zero(photograph: object) -> None:
    found = of(photograph(), round_mask((512, 512), 120))  # type: ignore[operator]
    assert 0 <= found.texture_divergence_bits < 0.005


def test_small_masks_in_one_texture_are_near_zero_too() -> None:
    """What some 200 codes give by chance is taken off."""
    corners = [(i, j) for i in range(0, 400, 128) for j in range(0, 400, 128)]
    mask = round_mask((112, 112), 13)
    found = [of(data.grass()[i : i + 112, j : j + 112], mask) for i, j in corners]
    assert found[0].inside_codes < 300
    assert np.mean([one.texture_divergence_bits for one in found]) < 0.015


def test_published_calls_disjoint_textures_alike() -> None:
    inside, outside = np.zeros(BINS, int), np.zeros(BINS, int)
    inside[:10], outside[10:] = 5000, 5000
    assert published_divergence(inside, outside) == 0  # "identical": as hard as it gets
    assert symmetric_divergence(inside, outside) > 0.99
    outside[3], inside[3] = 40000, 500  # and with one shared bin it is negative
    assert published_divergence(inside, outside) < 0 < symmetric_divergence(inside, outside)


def test_published_takes_the_border_for_texture() -> None:
    """The same grass inside and outside, 60 grey values brighter inside: an edge, no other texture."""
    grass = 100 + data.grass()[:256, :256].astype(int) // 8
    mask = round_mask((256, 256), 20)
    flat, stepped = grass, grass + 60 * mask
    published = [of(image, mask, "published").texture_divergence_bits for image in (flat, stepped)]
    symmetric = [of(image, mask).texture_divergence_bits for image in (flat, stepped)]
    assert published[1] > 1.5 * published[0]
    assert symmetric[1] == symmetric[0] < 0.02


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_volume_is_its_slices_pooled(variant: Variant) -> None:
    """By hand: codes slice by slice across the coarse axis, the middle one, then one histogram; no mask in slice 0."""
    images, masks = zip(*(textured(0.2, "foreground", i) for i in range(4)), strict=True)
    image, mask = np.stack(images, 1), np.stack(masks, 1)  # (H, slices, W)
    mask[:, 0] = False
    found = of(image, mask, variant, spacing_mm=(1.0, 3.0, 1.0))
    counts = np.zeros((2, 26), int)
    for z in (1, 2, 3):
        if variant == "published":
            with pytest.warns(UserWarning, match="local_binary_pattern"):
                codes = local_binary_pattern(img_as_float(image[:, z]), 24, 3, "uniform").astype(int)
            sides = (mask[:, z], ~mask[:, z])
        else:
            codes = local_binary_pattern(image[:, z], 24, 3, "uniform").astype(int)
            sides = tuple(_chessboard_distance(side) > 3 for side in (mask[:, z], ~mask[:, z]))
        counts += [np.bincount(codes[side], minlength=26) for side in sides]
    divergence = {"published": published_divergence, "symmetric": symmetric_divergence}[variant]
    assert found.texture_divergence_bits == pytest.approx(divergence(*counts), abs=1e-12)
    assert (found.inside_codes, found.outside_codes, found.slices) == (*counts.sum(axis=1), 3)


def test_slices_lie_across_the_coarsest_axis() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 30, 50))
    mask = np.zeros(image.shape, bool)
    mask[10:30, 8:22, 5:40] = True
    counts = [of(image, mask, spacing_mm=spacing).slices for spacing in ((5, 1, 1), (1, 5, 1), (1, 1, 5), (1, 1, 1))]
    assert counts == [20, 14, 35, 20]  # the first of equals
    moved = of(np.moveaxis(image, 2, 0), np.moveaxis(mask, 2, 0), spacing_mm=(5, 1, 1))
    assert moved == of(image, mask, spacing_mm=(1, 1, 5))
    assert of(image, mask, spacing_mm=(1, 1, 5), max_slices=7).slices == 7


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_number_without_a_mask_or_a_surround(variant: Variant) -> None:
    grass = data.grass()[:96, :96]
    for mask in (np.zeros((96, 96), bool), np.ones((96, 96), bool)):
        found = of(grass, mask, variant)
        assert math.isnan(found.texture_divergence_bits) and math.isnan(found.boundary_contrast)


def test_too_few_codes_give_no_number() -> None:
    grass = data.grass()[:96, :96]
    small, enough = np.zeros((96, 96), bool), np.zeros((96, 96), bool)
    small[30 : 30 + 6 + 9, 30 : 30 + 6 + 11] = True  # 9 x 11 codes are left of it
    enough[30 : 30 + 6 + 10, 30 : 30 + 6 + 10] = True
    assert FEWEST_CODES == 100
    found = of(grass, small)
    assert found.inside_codes == 99 and math.isnan(found.texture_divergence_bits)
    assert found.boundary_contrast > 0  # which needs no codes
    found = of(grass, enough)
    assert found.inside_codes == 100 and found.texture_divergence_bits >= 0


def test_boundary_contrast_by_hand() -> None:
    """Bands of 3 pixels: 10 +- 1 inside, 4 +- 2 outside; beyond them anything."""
    image = np.full((40, 60), 1000.0)
    mask = np.zeros((40, 60), bool)
    mask[:, 30:] = True
    image[:, 30:33] = 10 + np.tile([[1.0, -1, 1], [-1, 1, -1]], (20, 1))
    image[:, 27:30] = 4 + np.tile([[2.0, -2, 2], [-2, 2, -2]], (20, 1))
    assert of(image, mask).boundary_contrast == pytest.approx(6 / math.sqrt(1 + 4), rel=1e-6)
    assert of(5 * image - 7, mask).boundary_contrast == pytest.approx(6 / math.sqrt(5), rel=1e-5)
    assert of(mask * 2.0, mask).boundary_contrast == math.inf
    assert of(mask * 0.0, mask).boundary_contrast == 0


def test_channels_are_averaged_and_an_ignored_label_is_on_neither_side() -> None:
    first, mask = textured(0.1, "foreground", 0)
    second, _ = textured(0.9, "foreground", 0)
    both = ComplexityMeter(np.stack([first, second]), mask.astype(int), {"x": [1]}, (1, 1))
    each = [of(image, mask) for image in (first, second)]
    found = both.measure(np.stack([first, second]))["x"]
    for name in ("texture_divergence_bits", "boundary_contrast"):
        assert getattr(found, name) == pytest.approx(np.mean([getattr(one, name) for one in each]))
    label = mask.astype(int)
    label[:, 200:] = 7
    cut = ComplexityMeter(first[None], label, {"x": [1]}, (1, 1), ignore=7).measure(first[None])["x"]
    assert cut.outside_codes < each[0].outside_codes and cut.inside_codes <= each[0].inside_codes


def test_grey_scale() -> None:
    eight_bit = np.array([[[3.0, 7], [200, 9]]])
    assert np.array_equal(to_grey(eight_bit, grey_range(eight_bit)), eight_bit)
    ct = np.linspace(-1000, 1000, 2001).reshape(1, 3, -1)
    grey = to_grey(ct, grey_range(ct))
    assert grey.dtype == np.uint8 and grey.min() == 0 and grey.max() == 255
    assert grey[0, 1, 333] == pytest.approx(127.5, abs=1)
    assert not to_grey(np.full((1, 4, 4), -3.5), grey_range(np.full((1, 4, 4), -3.5))).any()
    # a perturbed image is seen on the scale of the clean one
    image, mask = textured(0.1, "foreground", 0)
    meter = ComplexityMeter(image[None], mask.astype(int), {"x": [1]}, (1, 1))
    assert meter.measure(image[None] + 0.2)["x"].texture_divergence_bits == of(image, mask).texture_divergence_bits


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Dataset 950: two labels and an empty case for training, a test case of another patient."""
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(folder, str(tmp_path / folder))

    def case(name: str, index: int, empty: bool = False, patient: str | None = None) -> Case:
        image, mask = textured(0.1, "foreground", index)
        label = mask.astype(np.uint8)
        label[mask & (np.arange(256) > 128)] = 2
        return Case(name, [image], label * (not empty), patient)

    return write_dataset(
        tmp_path / "nnUNet_raw", 950, "Two", [case("a", 0), case("b", 1, empty=True)], [case("c", 2, patient="P")],
        channel_names={0: "grey"}, labels={"background": 0, "left": 1, "right": 2}, file_ending=".png",
        provenance={"source": "tests"},
    )  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_command(variant: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out" / "table.csv"
    assert main(["complexity", "-d", "950", "-o", str(target), "--variant", variant]) == 0
    assert capsys.readouterr().out.split() == [str(target), str(target.with_suffix(".png"))]
    table = list(csv.DictReader(io.StringIO(target.read_text())))
    assert [(row["images"], row["patient"], row["case"], row["label"]) for row in table] == [
        (images, patient, case, label)
        for images, patient, case in (("imagesTr", "a", "a"), ("imagesTr", "b", "b"), ("imagesTs", "P", "c"))
        for label in ("all_foreground", "left", "right")
    ]
    image, mask = textured(0.1, "foreground", 0)
    expected = of(image, mask, variant)  # type: ignore[arg-type]
    assert float(table[0]["texture_divergence_bits"]) == expected.texture_divergence_bits
    assert float(table[0]["foreground_ratio"]) == mask.mean()
    assert float(table[0]["boundary_contrast"]) == expected.boundary_contrast
    assert sum(float(row["foreground_ratio"]) for row in table[1:3]) == pytest.approx(mask.mean())
    left = of(image, mask & (np.arange(256) <= 128), variant)  # type: ignore[arg-type]
    assert float(table[1]["texture_divergence_bits"]) == left.texture_divergence_bits  # "right" is of its surround
    for row in table[3:6]:  # the empty case: no number, and never 0
        assert (row["texture_divergence_bits"], row["boundary_contrast"], row["foreground_ratio"]) == ("", "", "0.0")
    assert Image.open(target.with_suffix(".png")).size[0] > 500
    before = [file.read_bytes() for file in sorted(target.parent.iterdir())]
    assert main(["complexity", "-d", "950", "-o", str(target), "--variant", variant]) == 0
    assert [file.read_bytes() for file in sorted(target.parent.iterdir())] == before and len(before) == 2


def test_other_folders(dataset: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    folders = ["-i", str(dataset / "imagesTs"), "-l", str(dataset / "labelsTs")]
    assert main(["complexity", "-d", "950", "-o", str(target), *folders]) == 0
    assert {row["case"] for row in csv.DictReader(io.StringIO(target.read_text()))} == {"c"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-d", "950", "-o", "x.csv", "--variant", "soft"], "'soft'"),
        (["-d", "950", "-o", "x.txt"], "x.txt"),
        (["-d", "951", "-o", "x.csv"], "951"),
        (["-d", "950", "-o", "x.csv", "-i", "images"], "-l"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["complexity", *arguments]) == 2
    fault = capsys.readouterr().err.strip().splitlines()[-1]
    assert fault.startswith("error: ") and words in fault
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("side", [90, 300])
def test_on_a_device_it_is_what_it_is_on_the_cpu(axes: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(2, 3, side, side - 20)), (0, 0, 1, 1)).astype(np.float32)
    label = np.stack([round_mask((side, side - 20), side / 4)] * 3).astype(int)
    image, label = (image, label) if axes == 3 else (image[:, 1], label[1])
    meter = ComplexityMeter(image, label, {"x": [1]}, (2.0, 1.0, 1.0)[-axes:])
    wanted = meter.measure(image)["x"]
    assert meter.measure(torch.from_numpy(image))["x"] == wanted
    monkeypatch.setattr(complexity, "on_a_device", lambda image: True)
    found = meter.measure(torch.from_numpy(image))["x"]
    if side <= SIDE:
        assert found == wanted
    else:  # shrunk first, in another order of summation
        assert found.texture_divergence_bits == pytest.approx(wanted.texture_divergence_bits, abs=1e-3)
        assert (found.boundary_contrast, found.inside_codes) == (wanted.boundary_contrast, wanted.inside_codes)


def test_on_a_device_there_may_be_no_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complexity, "on_a_device", lambda image: True)
    image = np.zeros((1, 4, 30, 30), np.float32)
    meter = ComplexityMeter(image, np.zeros((4, 30, 30), int), {"x": [1]}, (1.0, 1.0, 1.0))
    assert math.isnan(meter.measure(torch.from_numpy(image))["x"].texture_divergence_bits)
