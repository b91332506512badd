"""Devices of one machine: which GPUs a command takes, and how threads are shared out among its processes."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference.devices import gpus_of, workers_of


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize("device", ["cuda", None])
def test_gpus_by_number(device: str | None) -> None:
    assert gpus_of("all", device) == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert gpus_of("2", device) == ["cuda:0", "cuda:1"]


@pytest.mark.usefixtures("four_gpus")
def test_those_that_the_shell_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its words for them: a process that is given one of these sees that GPU alone."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 2,GPU-8f3a,7,-1,6")  # CUDA stops at the first that there is not
    assert gpus_of("all", None) == ["cuda:5", "cuda:2", "cuda:GPU-8f3a", "cuda:7"]
    assert gpus_of("3", None) == ["cuda:5", "cuda:2", "cuda:GPU-8f3a"]


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("asked", "device", "says"),
    [
        ("5", "cuda", "--gpus 5: torch sees 4"),
        ("0", "cuda", "from 1 to 9999, or all"),
        ("-1", "cuda", "from 1 to 9999, or all"),
        ("every", "cuda", "from 1 to 9999, or all"),
        ("2", "cpu", "the device is cpu: leave it out"),
    ],
)
def test_gpus_that_are_not_there(asked: str, device: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        gpus_of(asked, device)


def test_workers_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 12)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [workers_of(None, cuda, processes) for processes in (1, 2, 4, 12, 24)] == [8, 5, 2, 1, 1]
    assert [workers_of(None, cpu, processes) for processes in (1, 2, 4)] == [3, 1, 0]
    assert [workers_of(8, cuda, processes) for processes in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert [workers_of(0, cuda, processes) for processes in (1, 2)] == [0, 0]
    with pytest.raises(UserError, match="--workers -1"):
        workers_of(-1, cuda, 2)
