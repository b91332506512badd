"""Display names come from the manifest."""

from __future__ import annotations

from nnunet_robust.eval.results.display_names import PLAIN, display_names
from nnunet_robust.eval.results.manifest import Manifest


def test_names_are_the_manifests_and_else_have_blanks() -> None:
    attack = {"name": "pgd_linf", "display_name": "PGD, l∞", "steps": 20}
    rows = {
        "kspace_spikes": {"display_name": "k-space spikes"},
        "pgd_linf_from_A": {"display_name": "PGD, l∞, from A", "attack": attack},
        "old_noise": {"attack": {"steps": 20}},
    }
    names = display_names(Manifest.from_json({"perturbations": rows}), Manifest())
    assert names["kspace_spikes"] == "k-space spikes"
    assert (names["pgd_linf_from_A"], names["pgd_linf"]) == ("PGD, l∞, from A", "PGD, l∞")
    assert names["old_noise"] == PLAIN["old_noise"] == "old noise"
