"""The manifest: what is read is written again byte for byte, and older manifests are read with what they have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.manifest import (
    AttackEntry,
    Identity,
    Manifest,
    ModelEntry,
    PerturbationEntry,
    TrainingCasesEntry,
    TrainingEntry,
    open_manifest,
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


@pytest.mark.parametrize(
    ("before", "words"), [(None, "'perturb, by an earlier version'"), ("keep", "'keep'"), ("auto", "")]
)
def test_results_of_two_ways_with_the_background_do_not_mix(before: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    identity = Identity(dataset="D", seed=0, background=before)
    write_manifest(file, Manifest(dataset="D", identity=identity))
    now = replace(identity, background="auto")
    if not words:
        assert open_manifest(file, now).identity.background == "auto"
        return
    with pytest.raises(UserError) as told:
        open_manifest(file, now)
    assert f"another sweep (background is {words} there, 'auto' now): take a new folder for -o" in str(told.value)
    assert read_manifest(file).identity.background_then == (before or "perturb")  # a report still reads it


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


def test_how_a_model_was_trained_is_kept(tmp_path: Path) -> None:
    training = TrainingEntry(dataset="D", epochs={"0": 5}, batch_size=2, patch_size="64x64")
    entry = ModelEntry(model="m", training=training, training_cases=TrainingCasesEntry(n_cases=3, found={"0": ["a"]}))
    write_manifest(tmp_path / "manifest.json", Manifest(models={"m": entry}))
    stored = json.loads((tmp_path / "manifest.json").read_text())["models"]["m"]
    assert stored["training"] == {
        "dataset": "D", "epochs": {"0": 5}, "iterations_per_epoch": None, "batch_size": 2, "patch_size": "64x64",
        "seed": None,
    }  # fmt: skip
    assert stored["training_cases"] == {"n_cases": 3, "found": {"0": ["a"]}, "unknown": ""}
    assert read_manifest(tmp_path / "manifest.json").models["m"] == entry
