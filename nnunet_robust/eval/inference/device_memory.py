"""The memory of a device: how much of it is free, and copies to and from it that the device does not wait for."""

from __future__ import annotations

import torch

from nnunet_robust.common.memory import memory_available

_PINNED_AT_ONCE = 1 << 28
"""Bytes of a copy. Page-locked memory is scarce, and torch keeps it for the next copy."""


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that could be taken on a device now; None where it does not say.

    On CUDA, what torch has reserved and does not use counts as free. Other devices share the machine's memory.
    """
    if device.type != "cuda":
        return memory_available()
    try:
        free, _ = torch.cuda.mem_get_info(device)
    except RuntimeError:  # not every driver tells
        return None
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; on CUDA through page-locked memory, while this thread goes on."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor to the CPU. On CUDA, what is begun later does not wait for the copy.

    Any thread may do so: networks go on while their logits are copied.
    """
    if tensor.device.type != "cuda" or not torch.cuda.is_initialized():
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype)
    stream = torch.cuda.Stream(tensor.device)
    stream.wait_stream(torch.cuda.current_stream(tensor.device))
    with torch.cuda.stream(stream):
        _copy(tensor, host, stream)
    return host


def _copy(source: torch.Tensor, target: torch.Tensor, stream: torch.cuda.Stream) -> None:
    """In parts, along the first axes, that are small enough to be page-locked."""
    if source.numel() * source.element_size() > _PINNED_AT_ONCE and source.ndim:
        half = len(source) // 2
        parts = [(source[:half], target[:half]), (source[half:], target[half:])] if half else [(source[0], target[0])]
        for of_source, of_target in parts:
            _copy(of_source, of_target, stream)
        return
    pinned = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
    pinned.copy_(source, non_blocking=True)
    source.record_stream(stream)
    stream.synchronize()
    target.copy_(pinned)
