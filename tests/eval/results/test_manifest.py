"""The manifest: what is read is written again byte for byte, and older manifests are read with what they have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_robust.eval.results.manifest import (
    AttackEntry,
    Identity,
    Manifest,
    ModelEntry,
    PerturbationEntry,
    read_manifest,
    write_manifest,
)

OLD = {
    "seed": 1,
    "of_another_version": [1, {"a": None}],
    "git_commit": None,
    "identity": {"dataset": "D", "cases": {"a": "1", "b": None}},
    "models": {
        "m": {
            "choices": {"device": "cpu"},
            "model": "m",
            "checkpoints": {"0": "ab"},
            "images": {"file_ending": ".png", "channels": 1, "reader": "NaturalImage2DIO"},
        },
    },
    "perturbations": {"pgd_linf": {"levels": [0, 0.1], "attack": {"steps": 3, "source": None}}, "site": {"series": {}}},
}


@pytest.mark.parametrize("stored", [OLD, {}, {"models": {}}])
def test_what_is_read_is_written_again(stored: dict, tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(stored, indent=1) + "\n")
    before = file.read_bytes()
    write_manifest(file, read_manifest(file))
    assert file.read_bytes() == before


def test_what_an_older_manifest_lacks_has_a_default() -> None:
    manifest = Manifest.from_json(OLD)
    assert manifest.assumptions == () and manifest.device is None and manifest.pictures.cases == {}
    assert manifest.identity.members_by is None and manifest.models["m"].members is None
    assert manifest.models["m"].images.channels == 1 and manifest.perturbations["pgd_linf"].attack.steps == 3
    assert manifest.perturbations["site"].series == {} and manifest.perturbations["pgd_linf"].series is None
    assert Manifest.from_json({"models": [1]}).models == {}


def test_a_change_keeps_the_order_of_what_was_read() -> None:
    manifest = Manifest.from_json(OLD)
    model = replace(manifest.models["m"], choices={"device": "cuda"}, folder="there")
    changed = replace(manifest, models={"m": model}, device="cpu").to_json()
    assert list(changed) == [*OLD, "device"]
    assert list(changed["models"]["m"]) == [*OLD["models"]["m"], "folder"]
    assert changed["models"]["m"]["choices"] == {"device": "cuda"}


def test_a_new_entry_has_its_keys_in_the_order_of_its_fields() -> None:
    attacked = PerturbationEntry(attack=AttackEntry(steps=3), levels=[0.1], unit="", reference="R")
    assert json.dumps(attacked.to_json()) == (
        '{"levels": [0.1], "unit": "", "reference": "R", "attack": {"steps": 3, "source": null}}'
    )
    assert list(PerturbationEntry(series={}).to_json()) == ["levels", "unit", "series"]
    assert {"members", "denoise", "choices"}.isdisjoint(ModelEntry().to_json())
    assert Identity().to_json() == {"reference": None, "cases": {}} and Manifest().to_json()["git_commit"] is None
