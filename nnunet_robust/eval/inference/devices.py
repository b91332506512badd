"""Devices: where networks predict, with how many threads beside them."""

from __future__ import annotations

import multiprocessing

import torch

from nnunet_robust.common.errors import UserError


def device_of(name: str | None) -> torch.device:
    """Return the device of a name; by default CUDA where there is one."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name is None:
        return torch.device("cuda" if available["cuda"] else "cpu")
    if name not in available:
        raise UserError(f"-device {name}: take one of {', '.join(available)}")
    if not available[name]:
        raise UserError(f"-device {name}: this machine has none that torch can use: take -device cpu")
    return torch.device(name)


def workers_of(given: int | None, device: torch.device) -> int:
    """Return the number of threads that work beside the network's."""
    if given is not None:
        if given < 0:
            raise UserError(f"--workers {given}: give a number of threads, or 0 for none beside the network's")
        return given
    cores = multiprocessing.cpu_count()
    # On a CPU the network has all cores: threads only fill what it leaves, and with few cores get into its way.
    return min(8, max(1, cores - 1)) if device.type != "cpu" else min(4, cores // 4)


def use_nnunets_threads(device: torch.device) -> None:
    """Give torch as many threads as nnU-Net does."""
    # As nnUNetv2_predict does: the last bit of a convolution, and with it a voxel at a tie, depends on their number.
    if device.type == "cpu":
        torch.set_num_threads(multiprocessing.cpu_count())
