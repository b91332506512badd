"""A device for logits that has little memory, on a machine that has none: "cpu:0", whose tensors torch.zeros makes."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from nnunet_robust.eval.inference import sliding_window

SMALL = torch.device("cpu:0")


class SmallDevice:
    """Makes windows accumulate on `SMALL`, and torch.zeros fail there where it would hold more than `size` bytes.

    Attributes:
        size: bytes.
        most: bytes that were there at once.
        refused: how many times memory did not suffice.
    """

    def __init__(self, patch: pytest.MonkeyPatch, size: float) -> None:
        self.size, self.most, self.refused = size, 0, 0
        self._held: dict[int, int] = {}
        self._zeros = torch.zeros
        alternatives = sliding_window.alternatives
        patch.setattr(torch, "zeros", self._zeros_that_fit)
        patch.setattr(
            sliding_window,
            "alternatives",
            lambda *arguments: {**alternatives(*arguments), "results_device": (str(SMALL), "cpu")},
        )

    @property
    def used(self) -> int:
        """Bytes that are there."""
        return sum(self._held.values())

    def has(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor is on the device."""
        return tensor.untyped_storage().data_ptr() in self._held

    def _zeros_that_fit(self, *arguments: Any, **options: Any) -> torch.Tensor:
        made = self._zeros(*arguments, **options)
        if str(options.get("device")) != str(SMALL):
            return made
        storage = made.untyped_storage()
        if self.used + storage.nbytes() > self.size:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
        self._held[storage.data_ptr()] = storage.nbytes()
        weakref.finalize(storage, self._held.pop, storage.data_ptr())
        self.most = max(self.most, self.used)
        return made
