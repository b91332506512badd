"""Foreground ratios of the patches that training saw, against counts by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_robust.trainers import trainer_class
from nnunet_robust.trainers.records import COLUMNS, FILE, foreground_ratios, write_epoch
from tests.conftest import train

pytestmark = pytest.mark.usefixtures("one_thread")


def labels() -> torch.Tensor:
    """Two patches of 2 x 4: none, and three of eight foreground, two of which have label 3."""
    return torch.tensor([[[[0, 0, 0, 0], [0, 0, 0, 0]]], [[[0, 1, 0, 3], [0, 0, 3, 0]]]], dtype=torch.int16)


def test_labels() -> None:
    assert foreground_ratios(labels(), None, regions=False) == [0, 3 / 8]
    assert foreground_ratios(labels().unsqueeze(2), None, regions=False) == [0, 3 / 8]  # 3d


def test_deep_supervision_counts_at_full_resolution() -> None:
    assert foreground_ratios([labels(), torch.ones(2, 1, 1, 2)], None, regions=False) == [0, 3 / 8]


def test_the_ignore_label_is_not_foreground() -> None:
    assert foreground_ratios(labels(), 3, regions=False) == [0, 1 / 8]


def test_regions_are_foreground_wherever_any_is() -> None:
    whole, core = labels() > 0, labels() == 3
    shifted = torch.zeros_like(core)
    shifted[0, 0, 1, 1] = True
    target = torch.cat((whole, core, shifted), 1)
    assert foreground_ratios(target, None, regions=True) == [1 / 8, 3 / 8]
    assert foreground_ratios(target, 4, regions=True) == [0, 3 / 8]  # the last channel is then the ignore label's


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_by_hand(tmp_path: Path) -> None:
    file = tmp_path / FILE
    write_epoch(file, 0, [0.4, 0.0, 0.1, 0.0, 0.5])
    assert file.read_text().splitlines() == [
        ",".join(COLUMNS),
        "0,5,0.2,0.209762,0,0,0.1,0.4,0.5,0.4",  # population std: sqrt(0.044)
    ]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_epochs_are_appended_and_repeated_ones_replaced(tmp_path: Path) -> None:
    file = tmp_path / FILE
    for epoch in range(12):
        write_epoch(file, epoch, [epoch / 100])
    write_epoch(file, 10, [0.9])  # resumed from a checkpoint before epoch 10
    assert [(row["epoch"], float(row["mean"])) for row in rows(file)] == [
        *((str(epoch), epoch / 100) for epoch in range(10)),
        ("10", 0.9),
    ]
    write_epoch(file, 0, [0.5])  # started anew
    assert [row["epoch"] for row in rows(file)] == ["0"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / FILE
    write_epoch(file, 0, [0.5])
    before = file.read_text()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", killed)
        with pytest.raises(KeyboardInterrupt):
            write_epoch(file, 1, [0.5])
    assert file.read_text() == before


def test_a_training_records_what_it_saw_and_a_resumed_one_goes_on(textures: str, monkeypatch) -> None:
    name = "nnUNetTrainer_ps32_st3_bs3_3epochs_2iters_seed3"
    cls = trainer_class(name)
    seen: dict[int, list[torch.Tensor]] = {}
    stock_step, stock_end = cls.train_step, cls.on_epoch_end

    def step(self, batch: dict) -> dict:
        seen.setdefault(self.current_epoch, []).append(batch["target"][0].clone())
        return stock_step(self, batch)

    def killed(self) -> None:
        self.save_every = 2
        stock_end(self)
        if self.current_epoch == 3 and not self.was_killed:
            raise KeyboardInterrupt

    monkeypatch.setattr(cls, "train_step", step)
    monkeypatch.setattr(cls, "on_epoch_end", killed)
    monkeypatch.setattr(cls, "was_killed", False, raising=False)
    # Best checkpoints would be resumed from only if there were no latest one; epoch 2 is repeated.
    with pytest.raises(KeyboardInterrupt):
        train(textures, "2d", name, validate=False)
    monkeypatch.setattr(cls, "was_killed", True)
    seen.pop(2)
    folder = train(textures, "2d", name, resume=True, validate=False)

    written = rows(folder / "fold_0" / FILE)
    assert [row["epoch"] for row in written] == ["0", "1", "2"]
    for row in written:
        patches = torch.cat(seen[int(row["epoch"])])
        ratios = (patches > 0).double().flatten(1).mean(1).numpy()
        assert len(ratios) == int(row["patches"]) == 6
        expected = [ratios.mean(), ratios.std(), *np.quantile(ratios, (0, 0.25, 0.5, 0.75, 1)), (ratios == 0).mean()]
        assert [float(row[column]) for column in COLUMNS[2:]] == pytest.approx(expected, rel=1e-5)
