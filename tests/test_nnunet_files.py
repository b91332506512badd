"""nnU-Net's own files, against nnU-Net."""

from __future__ import annotations

import json
from multiprocessing.pool import ThreadPool
from pathlib import Path

import nnunetv2.utilities.utils as nnunet_utils
import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.nnunet_files import training_files


def test_training_files_are_those_that_nnunet_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnunet_utils, "Pool", lambda processes: ThreadPool(1))
    (tmp_path / "imagesTr").mkdir()
    for name in ("b", "a", "a_0000", "c d", "x.y", "línea"):
        for channel in range(2):
            (tmp_path / "imagesTr" / f"{name}_{channel:04d}.nii.gz").touch()
    (tmp_path / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    theirs = nnunet_utils.get_filenames_of_train_images_and_targets(str(tmp_path))
    ours = training_files(tmp_path)
    assert list(ours) == sorted(theirs) and len(ours) == 6
    for name, (images, label) in ours.items():
        assert [str(path) for path in images] == theirs[name]["images"] and str(label) == theirs[name]["label"]

    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "else"))
    cases = {"k": {"images": ["$ELSEWHERE/i.png", "../j.png"], "label": "l.png"}}
    (tmp_path / "dataset.json").write_text(json.dumps({"dataset": cases}))
    theirs = nnunet_utils.get_filenames_of_train_images_and_targets(str(tmp_path))
    images, label = training_files(tmp_path)["k"]
    assert [str(path) for path in images] == theirs["k"]["images"] and str(label) == theirs["k"]["label"]


def test_a_dataset_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"file_ending": ".png"}')
    with pytest.raises(UserError, match=r"no folder .*imagesTr"):
        training_files(tmp_path)
