from __future__ import annotations

from collections import Counter

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.dataset_conversion.selection import check_selection, draw_patients

STRATA = {f"p{number:02d}": "abbcccc"[number % 7] for number in range(35)}


@pytest.mark.parametrize(("share", "counts"), [(0.2, (1, 2, 4)), (0.4, (2, 4, 8)), (0.8, (4, 8, 16))])
def test_of_each_stratum_its_share(share: float, counts: tuple[int, int, int]) -> None:
    for seed in range(5):
        drawn = Counter(STRATA[patient] for patient in draw_patients(STRATA, share, seed))
        assert (drawn["a"], drawn["b"], drawn["c"]) == counts


def test_nested_seeded_and_whatever_the_order() -> None:
    small, large = draw_patients(STRATA, 0.2, 3), draw_patients(STRATA, 0.5, 3)
    assert small < large and small == draw_patients(dict(reversed(STRATA.items())), 0.2, 3)
    assert len({frozenset(draw_patients(STRATA, 0.2, seed)) for seed in range(9)}) > 5
    every = {patient for seed in range(200) for patient in draw_patients(STRATA, 0.1, seed)}
    assert every == set(STRATA), "anybody can be drawn"


def test_the_least_and_the_most() -> None:
    assert draw_patients(STRATA, 0.0, 0) == set()
    assert len(draw_patients(STRATA, 0.001, 0)) == 1
    assert len(draw_patients(STRATA, 0.97, 0)) == 34
    with pytest.raises(UserError, match=r"test_share 0\.99 of 35 patients leaves none for training"):
        draw_patients(STRATA, 0.99, 0)
    with pytest.raises(UserError, match=r"test_share must be in \[0, 1\), got nan"):
        check_selection(None, float("nan"))
    with pytest.raises(UserError, match="cases must be at least 1, got 0"):
        check_selection(0, 0.0)
