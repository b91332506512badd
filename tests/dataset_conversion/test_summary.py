from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_robust.dataset_conversion.summary import PartSummary, print_summary, summarise
from nnunet_robust.dataset_conversion.writer import Case, write_dataset


def volume(name: str, shape: tuple[int, ...], ones: int, twos: int, spacing: tuple[float, ...], patient: str) -> Case:
    label = np.zeros(shape, dtype=np.uint8)
    label.flat[:ones] = 1
    label.flat[ones : ones + twos] = 2
    return Case(name, [np.zeros(shape, np.int16)], label, patient=patient, spacing_mm=spacing)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    return write_dataset(
        tmp_path,
        42,
        "Some_Name",
        [
            volume("a", (2, 5, 10), 10, 5, (3.0, 1.0, 0.5), "p"),
            volume("b", (4, 5, 5), 0, 0, (2.5, 1.0, 0.75), "p"),
            volume("c", (2, 5, 20), 100, 0, (3.0, 1.0, 0.5), "q"),
        ],
        [volume("d", (2, 2, 2), 1, 1, (1.0, 1.0, 1.0), "r")],
        channel_names={0: "MR"},
        labels={"background": 0, "whole": [1, 2], "core": 2},
        regions_class_order=[1, 2],
        file_ending=".nii.gz",
        provenance={"source": "tests"},
    )


def test_by_hand(volumes: Path) -> None:
    training = summarise(volumes, "Tr")
    assert training == PartSummary(
        cases=3,
        patients=2,
        sizes=[(2, 4), (5, 5), (5, 20)],
        spacings_mm=[(2.5, 3.0), (1.0, 1.0), (0.5, 0.75)],
        foreground_ratios=[0.15, 0.0, 0.5],
        voxels={"background": 400 - 115, "whole": 115, "core": 5},
    )
    testing = summarise(volumes, "Ts")
    assert (testing.cases, testing.patients, testing.foreground_ratios) == (1, 1, [0.25])
    assert testing.voxels == {"background": 6, "whole": 2, "core": 1}


def test_printed(volumes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(volumes)
    printed = capsys.readouterr().out
    rows = {
        cells[0]: cells[1:]
        for line in printed.splitlines()
        if line.startswith("│")
        for cells in [[cell.strip() for cell in line.strip("│").split("│")]]
    }
    assert rows == {
        "cases": ["3", "1"],
        "patients": ["2", "1"],
        "size, per axis": ["2..4 x 5 x 5..20", "2 x 2 x 2"],
        "spacing in mm, per axis": ["2.5..3 x 1 x 0.5..0.75", "1 x 1 x 1"],
        "foreground ratio, mean": ["0.2167", "0.2500"],
        "foreground ratio, range": ["0.0000 to 0.5000", "0.2500 to 0.2500"],
        "empty masks": ["1", "0"],
        "voxels of background": ["285", "6"],
        "voxels of whole": ["115", "2"],
        "voxels of core": ["5", "1"],
    }
    assert printed.endswith(f"{volumes}\nnext: nnUNetv2_plan_and_preprocess -d 42 --verify_dataset_integrity\n")


def test_pictures_have_no_spacing_and_a_dataset_may_have_no_test_set(tmp_path: Path) -> None:
    label = np.array([[0, 1, 1]], dtype=np.uint8)
    folder = write_dataset(
        tmp_path,
        1,
        "P",
        [Case("x", [label], label)],
        [],
        channel_names={0: "grey"},
        labels={"background": 0, "one": 1, "absent": 2},
        file_ending=".png",
        provenance={"source": "tests"},
    )
    training, testing = summarise(folder, "Tr"), summarise(folder, "Ts")
    assert (training.sizes, training.spacings_mm, training.patients) == ([(1, 1), (3, 3)], None, 1)
    assert training.voxels == {"background": 1, "one": 2, "absent": 0}
    assert (testing.cases, testing.sizes, testing.foreground_ratios) == (0, [], [])
    print_summary(folder)


def test_ignore_is_no_foreground(tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path,
        42,
        "Scribbles",
        [volume("a", (2, 5, 10), 10, 50, (1.0, 1.0, 1.0), "p")],
        [],
        channel_names={0: "MR"},
        labels={"background": 0, "lesion": 1, "ignore": 2},
        file_ending=".nii.gz",
        provenance={"source": "tests"},
    )
    training = summarise(folder, "Tr")
    assert training.foreground_ratios == [0.1] and training.voxels["ignore"] == 50
