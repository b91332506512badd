"""The voxels that boxes reach first, against a number for every voxel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.perturbations.boxes import TIE, first_reached
from nnunet_robust.perturbations.occlusion import cutout


@pytest.mark.parametrize("lengths", [(1,), (7,), (10, 10), (31, 17), (3, 40), (9, 12, 14)])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.9, 1.0])
def test_they_are_those_of_the_smallest_factors(lengths: tuple[int, ...], share: float) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        centres = rng.uniform(size=(3, len(lengths))).astype(np.float32)
        edges = (4 ** rng.uniform(-0.5, 0.5, (3, len(lengths)))).astype(np.float32)
        count = max(1, round(share * np.prod(lengths)))
        boxes, places = first_reached(centres, edges, lengths, count)
        found = np.zeros(lengths, bool)
        for box in boxes:
            found[tuple(slice(*ends) for ends in box)] = True
        assert not found.flat[places].any() and len(set(places)) == len(places)
        found.flat[places] = True

        at = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in lengths], indexing="ij"))
        distances = [
            np.abs(at - c.reshape(-1, *[1] * len(lengths))) / e.reshape(-1, *[1] * len(lengths))
            for c, e in zip(centres, edges, strict=True)
        ]
        factors = np.min([d.max(axis=0) + TIE * d.sum(axis=0) for d in distances], axis=0)
        wanted = factors <= np.partition(factors.ravel(), count - 1)[count - 1] * (1 + 1e-6)
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("shape", [(1, 10, 10), (2, 1, 40, 50), (3, 9, 12, 14)])
def test_a_region_that_is_everything_changes_nothing_of_cutout(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape) + 1
    for level in (0.02, 0.1, 0.4, 0.99, 1.0):
        for seed in range(5):
            everywhere = torch.ones(shape[1:], dtype=torch.bool)
            wanted = cutout(image, level, torch_generator(seed), region=everywhere)
            assert torch.equal(cutout(image, level, torch_generator(seed)), wanted)
