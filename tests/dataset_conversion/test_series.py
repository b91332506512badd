"""The series of test sets that the synthetic datasets bring along."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion import series as series_module
from nnunet_robust.dataset_conversion.textures import TextureParameters, blend, synthesize_textures
from nnunet_robust.dataset_conversion.writer import Case
from nnunet_robust.eval.sweep.series import read_series

ALPHAS = (0.1, 0.9, 0.98)


def parameters(**changes) -> TextureParameters:
    return TextureParameters(**{"cases": 5, "test_cases": 2, "size": 64, "test_alphas": ALPHAS, **changes})


def test_one_test_set_for_each_alpha_and_direction_paired_with_the_datasets_own(tmp_path: Path) -> None:
    folder = synthesize_textures(tmp_path, 1, parameters(both_directions=True))
    sets = read_series(folder / "series.csv")
    assert [(s.condition.perturbation, s.condition.level) for s in sets] == [
        (f"{direction}_alpha", alpha) for direction in ("foreground", "background") for alpha in ALPHAS
    ]
    pure = synthesize_textures(tmp_path, 2, TextureParameters(cases=5, test_cases=2, size=64, alpha=0.0))
    other = {  # the two textures, each alone
        direction: synthesize_textures(
            tmp_path, 3 + n, TextureParameters(cases=5, test_cases=2, size=64, alpha=1.0, direction=direction)
        )
        for n, direction in enumerate(("foreground", "background"))
    }
    for test_set in sets:
        direction = test_set.condition.perturbation.removesuffix("_alpha")
        cases = test_set.cases(".png", 1, {})
        assert [case.name for case in cases] == ["texture_test_0000", "texture_test_0001"]
        for case in cases:
            name = f"imagesTs/{case.name}_0000.png"
            mask = imread(pure / "labelsTs" / f"{case.name}.png")
            assert np.array_equal(imread(case.label), mask)
            fg, bg = imread(other["background"] / name), imread(other["foreground"] / name)
            expected = blend(fg, bg, mask == 1, test_set.condition.level, direction)
            assert np.array_equal(imread(case.images[0]), expected)
            if test_set.condition.name == "foreground_alpha_0.1":
                assert np.array_equal(imread(folder / name), expected)


def test_the_file_names_folders_relative_to_itself_and_the_record_names_the_series(tmp_path: Path) -> None:
    folder = synthesize_textures(tmp_path, 1, parameters())
    with (folder / "series.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "perturbation": "foreground_alpha",
        "level": "0.9",
        "images": "series/foreground_alpha_0.9/images",
        "labels": "series/foreground_alpha_0.9/labels",
        "unit": "share of background in the foreground",
    }
    assert len(rows) == 3
    recorded = json.loads((folder / "dataset.json").read_text())["nnunet_robust"]["parameters"]
    assert recorded["test_alphas"] == list(ALPHAS)
    assert synthesize_textures(tmp_path, 1, parameters()) == folder  # left as it is
    with pytest.raises(UserError, match=r"parameters\.test_alphas"):
        synthesize_textures(tmp_path, 1, parameters(test_alphas=()))


def test_names_that_pandas_takes_for_missing(tmp_path: Path) -> None:
    pixels = np.zeros((8, 6), np.uint8)
    sets = [
        series_module.SeriesSet(name, 1.0, "null", [Case("nan", [pixels], pixels), Case("NA", [pixels], pixels)])
        for name in ("NA", "null", "nan")
    ]
    series_module.series_writer(sets, label_values=(0, 1), file_ending=".png")(tmp_path)
    read = read_series(tmp_path / "series.csv")
    assert [(one.condition.perturbation, one.unit) for one in read] == [
        (name, "null") for name in ("NA", "null", "nan")
    ]
    assert [case.name for case in read[0].cases(".png", 1, {})] == ["NA", "nan"]


def test_whole_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(series_module, "write_cases", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesize_textures(tmp_path, 1, parameters())
    assert not list(tmp_path.iterdir())


def test_a_dataset_without_a_series_has_none(tmp_path: Path) -> None:
    folder = synthesize_textures(tmp_path, 1, parameters(test_alphas=()))
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset.json", "imagesTr", "imagesTs", "labelsTr", "labelsTs",
    ]  # fmt: skip
    assert "test_alphas" not in (folder / "dataset.json").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"test_alphas": (0.1, 1.1)}, r"--test-alphas must be in \[0, 1\], got 1.1"),
        ({"test_alphas": (0.1, 0.1)}, "--test-alphas names 0.1 twice"),
        ({"test_cases": 0}, "there are 0 test cases"),
        ({"test_alphas": (), "both_directions": True}, "give --test-alphas"),
    ],
)
def test_series_that_cannot_be_made(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parameters(**wrong)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    volumes = "synthesize volumes --id 2 --cases 5 --test-cases 1 --size 32 40 48 --spacing 1 1 1 --radius 8 12"
    volumes += " --test-radius 4 15 --test-radii 4 15"
    textures = "synthesize textures --id 1 --cases 5 --test-cases 1 --size 64 --test-alphas 0.1 0.98 --both-directions"
    for command, number in ((textures, 4), (volumes, 2)):
        assert main(command.split()) == 0
        printed = capsys.readouterr().out
        folder = Path(printed.splitlines()[0])
        assert f"sweep --series {folder / 'series.csv'}" in printed
        assert len(read_series(folder / "series.csv")) == number
    assert main(["synthesize", "volumes", "--id", "3", "--size", "32", "32"]) == 2
    assert capsys.readouterr().err == "error: --size takes one number or three (Z Y X), got 2\n"
