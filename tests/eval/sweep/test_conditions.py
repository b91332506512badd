"""Which conditions a sweep goes through."""

from __future__ import annotations

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.attacks.rows import PERTURBATIONS
from nnunet_robust.eval.sweep.conditions import conditions_for


def test_names_levels_and_presets() -> None:
    assert conditions_for(["contrast"], None, None) == {"contrast": PERTURBATIONS["contrast"].levels}
    assert conditions_for(["contrast", "gaussian_blur"], None, [2, 1]) == {"contrast": (1, 2), "gaussian_blur": (1, 2)}
    kamath = conditions_for([], "kamath2025", None)
    assert kamath == {"speckle_noise_8bit": (0.1**0.5, 0.3**0.5), "background_blur_8bit": (3.0, 7.0)}
    own = conditions_for(["contrast=0.2,0.1", "gaussian_blur"], None, [2])
    assert own == {"contrast": (0.1, 0.2), "gaussian_blur": (2,)}
    both = conditions_for(["speckle_noise_8bit"], "kamath2025", [0.5])
    assert both["speckle_noise_8bit"] == (0.1**0.5, 0.5, 0.3**0.5)


@pytest.mark.parametrize(
    ("names", "preset", "levels", "says"),
    [
        (["specle_noise"], None, None, "speckle_noise"),
        ([], "kamath", None, "did you mean 'kamath2025'"),
        ([], None, None, "--perturb"),
        ([], "kamath2025", [0.1], "preset has levels of its own"),
        (["contrast"], None, [-0.1], r"contrast.*-0.1"),
        (["salt_and_pepper"], None, [1.5], r"\[0, 1\].*1.5"),
        (["contrast"], None, [float("nan")], "nan"),
        (["contrast=-0.1"], None, None, r"contrast.*-0.1"),
        (["contrast=0.1,much"], None, None, "contrast=0.1,much: levels are numbers"),
    ],
)
def test_bad_conditions(names, preset, levels, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        conditions_for(names, preset, levels)
    assert "\n" not in str(error.value)
