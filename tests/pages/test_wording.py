"""How numbers, names and samples are written."""

from __future__ import annotations

from nnunet_robust.pages.wording import few_patients, p_value


def test_small_samples_and_small_p_values_are_named() -> None:
    assert "single patient" in few_patients(1)[0] and "19 patients are few" in few_patients(19)[0]
    assert few_patients(20) == []
    assert [p_value(p) for p in (0.0004, 0.0126, float("nan"))] == ["<0.001", "0.013", "–"]
