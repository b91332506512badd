"""The one source of randomness: every seed in the package is a stable hash of what it is for."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def stable_seed(*parts: str | int | float) -> int:
    """Make a 63-bit seed from names and numbers, the same in every process, on every machine and Python.

    Args:
        parts: what the randomness is for, e.g. `(seed, case, perturbation, replicate)`. 1 and "1" differ.

    Returns:
        An integer in [0, 2**63).
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(*parts: str | int | float) -> np.random.Generator:
    """Make a NumPy generator seeded with `stable_seed(*parts)`."""
    import numpy as np

    return np.random.default_rng(stable_seed(*parts))


def torch_generator(*parts: str | int | float) -> torch.Generator:
    """Make a torch generator seeded with `stable_seed(*parts)`, on the CPU, so that a GPU sees the same numbers."""
    import torch

    return torch.Generator(device="cpu").manual_seed(stable_seed(*parts))


def seed_everything(*parts: str | int | float) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices) with `stable_seed(*parts)`."""
    import numpy as np
    import torch

    seed = stable_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - nnU-Net and batchgenerators draw from the global generator
    torch.manual_seed(seed)
