"""Devices: where networks predict, with how many threads beside them."""

from __future__ import annotations

import multiprocessing
import os
import re

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


def gpus_of(asked: str, device: str | None) -> list[str]:
    """Return the GPUs that a command is to run on.

    Args:
        asked: how many, or "all".
        device: name of the device; None: CUDA where there is one.

    Returns:
        "cuda:0", ...: behind the colon each one's word for CUDA_VISIBLE_DEVICES. Those that this variable hides from
        the command are left out.

    Raises:
        UserError: not such a number, no CUDA, or fewer GPUs.
    """
    if asked != "all" and not re.fullmatch("[1-9][0-9]{0,3}", asked):
        raise UserError(f"--gpus {asked or repr(asked)}: give a number of GPUs from 1 to 9999, or all")
    kind = device_of(device).type
    if kind != "cuda":
        raise UserError(
            f"--gpus {asked}: the device is {kind}: leave it out, or take -device cuda where there are GPUs"
        )
    there = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(there)))).split(",")[:there]
    if asked != "all" and int(asked) > there:
        raise UserError(f"--gpus {asked}: torch sees {there}: ask for no more (CUDA_VISIBLE_DEVICES may hide some)")
    return [f"cuda:{name.strip()}" for name in (names if asked == "all" else names[: int(asked)])]


def workers_of(given: int | None, device: torch.device, processes: int = 1) -> int:
    """Return the number of threads that work beside the network's.

    Args:
        given: by the user, for all processes together; None goes by the device.
        device: of the network.
        processes: that share this machine.

    Returns:
        The threads of each process.
    """
    if given is not None:
        if given < 0:
            raise UserError(f"--workers {given}: give a number of threads, or 0 for none beside the network's")
        return max(min(given, 1), given // processes)
    cores = max(1, multiprocessing.cpu_count() // processes)
    # On a CPU the network has all cores: threads only fill what it leaves, and with few cores get into its way.
    return min(8, max(1, cores - 1)) if device.type != "cpu" else min(4, cores // 4)


def use_nnunets_threads(device: torch.device) -> None:
    """Give torch as many threads as nnU-Net does."""
    # As nnUNetv2_predict does: the last bit of a convolution, and with it a voxel at a tie, depends on their number.
    if device.type == "cpu":
        torch.set_num_threads(multiprocessing.cpu_count())
