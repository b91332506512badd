"""What is free on a device, and copies through page-locked memory, as far as a machine without one can tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nnunet_robust.eval.inference import device_memory
from nnunet_robust.eval.inference.device_memory import free_bytes, to_device, to_host

CUDA = torch.device("cuda:0")


def test_what_torch_has_reserved_and_does_not_use_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert free_bytes(CUDA) == 1500


def test_a_driver_that_does_not_tell_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(device: torch.device) -> Any:
        raise RuntimeError("CUDA error: operation not supported")

    monkeypatch.setattr(torch.cuda, "mem_get_info", unknown)
    assert free_bytes(CUDA) is None


def test_other_devices_have_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "memory_available", lambda: 12345)
    assert free_bytes(torch.device("cpu")) == free_bytes(torch.device("mps")) == 12345


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.arange(5)
    assert to_host(tensor) is tensor and to_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.parametrize("at_once", [1, 8, 100, 1 << 20])
def test_large_tensors_are_copied_in_parts(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "_PINNED_AT_ONCE", at_once)
    parts: list[int] = []
    empty = torch.empty

    def pinned(shape: torch.Size, *, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        made = empty(shape, dtype=dtype)
        parts.append(made.nbytes)
        return made

    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    source = torch.randn(3, 5, 8).half()[:, 1:4]  # as an image in its padding
    target = torch.full_like(source, torch.nan)
    waits: list[int] = []
    device_memory._copy(source, target, SimpleNamespace(synchronize=lambda: waits.append(1)))  # type: ignore[arg-type]
    assert torch.equal(source, target)
    assert max(parts) <= max(at_once, 2) and sum(parts) == 3 * 3 * 8 * 2 and len(waits) == len(parts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_copies_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "_PINNED_AT_ONCE", 1 << 12)
    tensor = torch.randn(3, 40, 50)
    there = to_device(tensor, CUDA)
    assert there.device == CUDA and torch.equal(to_host(there), tensor)
    assert torch.equal(to_host(there[:, 3:9]), tensor[:, 3:9])
    free = free_bytes(CUDA)
    assert free is not None and 0 < free <= torch.cuda.mem_get_info(CUDA)[1]
