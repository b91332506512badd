"""Checkpoints are pickles, and a pickle can run anything: of one that nobody vouches for, only data is loaded.

PyTorch's loader for weights knows tensors, containers and numbers. What nnU-Net writes besides are numbers of NumPy,
its record of losses. These are rebuilt here from their bytes, so that no function of NumPy's is called with what a
stranger wrote.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_robust.common.digest import require_regular
from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.common.faults import is_memory
from nnunet_robust.trainers.plan_names import TRUST

_KINDS = "biuf"  # truth values, integers, floats: a number is all in its bytes, unlike an object


class _Dtype:
    """What stands for `numpy.dtype` in a checkpoint: the type of one number."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(rf"[{_KINDS}]\d+", str(code)):
            raise pickle.UnpicklingError("GLOBAL numpy.dtype of no number")
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):  # the order of bytes; all else is for types that are not allowed
            self.dtype = self.dtype.newbyteorder(state[1])


def _scalar(kind: _Dtype, content: bytes) -> np.generic:
    """Rebuild a number of NumPy's from its bytes."""
    if type(kind) is not _Dtype or len(content) != kind.dtype.itemsize:
        raise pickle.UnpicklingError("GLOBAL numpy.core.multiarray.scalar of no number")
    number: np.generic = np.frombuffer(content, kind.dtype)[0]
    return number


# As NumPy 1 and 2 write them.
_ALLOWED = [
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]


def load_checkpoint(path: Path, trusted: bool = False) -> dict[str, Any]:
    """Load one of nnU-Net's checkpoints into the CPU's memory, on whatever device it was saved.

    Args:
        path: the file.
        trusted: load whatever it holds, which may run code.

    Returns:
        What nnU-Net has saved: `network_weights`, `trainer_name`, `init_args`, `current_epoch`, ...

    Raises:
        UserError: it holds something else than data, or cannot be read.
        OSError: it is not there, or a pipe.
    """
    require_regular(path)
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols that it may not know: where it does not, it fails
            stored = torch.load(path, map_location="cpu", weights_only=not trusted)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error), trusted)) from error
    except Exception as error:  # cut off, no checkpoint, unreadable: each of PyTorch's layers has its own
        if is_memory(error):
            raise
        raise UserError(f"{path} cannot be read as a checkpoint: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(stored, dict):
        raise UserError(f"{path} is no checkpoint of nnU-Net's: it holds a {type(stored).__name__}")
    return stored


def _refusal(path: Path, reason: str, trusted: bool) -> str:
    named = re.search(r"GLOBAL (\S+)|unrecognized function <[\w-]+ '?([^'>]+)", reason)
    if named and not trusted:
        return (
            f"{path} holds {named[1] or named[2]}, which could run code when it is loaded: nnU-Net's own checkpoints "
            f"do not; {TRUST}"
        )
    (text, *_) = (reason.partition("WeightsUnpickler error: ")[2] or reason).strip().splitlines() or [""]
    mend = "" if trusted else f"; it may hold more than nnU-Net's checkpoints do: {TRUST}"
    return f"{path} cannot be read as a checkpoint: {text}{mend}"
