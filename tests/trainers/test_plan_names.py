"""Names in plans and datasets: those of nnU-Net and of its networks pass, whatever else they could name does not."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers.plan_names import check_dataset, check_plans, nnunets_own

PLANS = Path("plans.json")


@pytest.fixture(scope="module")
def plans(volumes: str, nnunet: Path) -> dict[str, Any]:
    return dict(json.loads((nnunet / "nnUNet_preprocessed" / volumes / "nnUNetPlans.json").read_text()))


def test_plans_of_nnunets_planners_pass(plans: dict[str, Any], resenc_plans: dict[str, dict[str, Any]]) -> None:
    for each in (plans, *resenc_plans.values()):
        check_plans(each, PLANS)


def test_plans_of_nnunets_first_releases_pass() -> None:
    old = {"UNet_class_name": "PlainConvUNet", "resampling_fn_data": "resample_data_or_seg_to_shape"}
    check_plans({"label_manager": "LabelManager", "configurations": {"2d": old}}, PLANS)


OF_ARCHITECTURE = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "antigravity",
    "torch.hub.load",
    "torch.nn",  # a module
    "torch.nn.functional.relu",  # a function
    "torch.nn.modules.conv.torch.hub.load",  # what a module of layers has imported
    "dynamic_network_architectures.architectures.unet.Union",
    "dynamic_network_architectures.architectures.abstract_arch.torch.os.system",
    "dynamic_network_architectures_of_mine.Net",
    "nnunetv2.run.run_training.run_training",
    "",
]


@pytest.mark.parametrize("key", ["network_class_name", "norm_op", "nonlin"])
@pytest.mark.parametrize("name", OF_ARCHITECTURE)
def test_what_is_no_network_nor_layer(plans: dict[str, Any], key: str, name: str) -> None:
    given = deepcopy(plans)
    architecture = given["configurations"]["3d_fullres"]["architecture"]
    (architecture if key == "network_class_name" else architecture["arch_kwargs"])[key] = name
    with pytest.raises(UserError, match=rf"^plans\.json: {key} is '{name}', which is no class .*--trust-checkpoints$"):
        check_plans(given, PLANS)


def test_any_argument_may_be_declared_a_class(plans: dict[str, Any]) -> None:
    given = deepcopy(plans)
    architecture = given["configurations"]["2d"]["architecture"]
    architecture["arch_kwargs"]["mine"] = "os.abort"
    check_plans(given, PLANS)  # a text like any other
    architecture["_kw_requires_import"].append("mine")
    with pytest.raises(UserError, match=r"mine is 'os\.abort'"):
        check_plans(given, PLANS)


@pytest.mark.parametrize("declared", ["x", {"x": 1}])
def test_declarations_are_gone_through_as_nnunet_does(plans: dict[str, Any], declared: Any) -> None:
    given = deepcopy(plans)
    architecture = given["configurations"]["2d"]["architecture"]
    architecture |= {"_kw_requires_import": declared, "arch_kwargs": {**architecture["arch_kwargs"], "x": "os.abort"}}
    with pytest.raises(UserError, match=r"x is 'os\.abort'"):
        check_plans(given, PLANS)


def test_layers_that_are_not_declared_count_too(plans: dict[str, Any]) -> None:
    given = deepcopy(plans)
    architecture = given["configurations"]["2d"]["architecture"]
    architecture |= {"_kw_requires_import": [], "arch_kwargs": {**architecture["arch_kwargs"], "conv_op": "os.abort"}}
    with pytest.raises(UserError, match=r"conv_op is 'os\.abort'"):  # nnUNetTrainerBN imports it all the same
        check_plans(given, PLANS)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("preprocessor_name", "multiprocessing"),
        ("preprocessor_name", "load_json"),
        ("resampling_fn_data", "torch"),
        ("resampling_fn_seg", "deepcopy"),
        ("resampling_fn_probabilities", "resize"),
        ("normalization_schemes", ["ZScoreNormalization", "np"]),
    ],
)
def test_what_nnunets_files_have_imported(plans: dict[str, Any], key: str, name: Any) -> None:
    given = deepcopy(plans)
    given["configurations"]["2d"][key] = name
    with pytest.raises(UserError, match=rf"{key} is '{name if isinstance(name, str) else name[-1]}'"):
        check_plans(given, PLANS)


@pytest.mark.parametrize("name", ["os", "sitk", "nibabel", "ABC"])
def test_readers(plans: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=f"image_reader_writer is '{name}'"):
        check_plans({**plans, "image_reader_writer": name}, PLANS)
    with pytest.raises(UserError, match=f"overwrite_image_reader_writer is '{name}'.*take it out"):
        check_dataset({"overwrite_image_reader_writer": name}, Path("dataset.json"))
    with pytest.raises(UserError, match=f"nnU-Net has no '{name}'"):
        nnunets_own(name, "imageio")


def test_names_that_nothing_has_are_left_to_nnunet(plans: dict[str, Any]) -> None:
    check_plans({**plans, "image_reader_writer": "NoSuchReader"}, PLANS)
    check_dataset({"overwrite_image_reader_writer": "None"}, Path("dataset.json"))


def test_readers_of_nnunets_pass() -> None:
    check_dataset({"overwrite_image_reader_writer": "NibabelIOWithReorient"}, Path("dataset.json"))
    assert nnunets_own("NibabelIO", "imageio").__name__ == "NibabelIO"


@pytest.mark.parametrize("odd", [{}, {"configurations": None}, {"configurations": {"2d": []}},
                                 {"configurations": {"2d": {"architecture": 3}}}])  # fmt: skip
def test_what_are_no_plans_is_left_to_nnunet(odd: dict[str, Any]) -> None:
    check_plans(odd, PLANS)


def test_the_command_that_reads_plans(
    volumes: str, nnunet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(os, "abort", lambda *_, **__: pytest.fail("it was called"))
    folder = nnunet / "nnUNet_preprocessed" / volumes
    spoilt = json.loads((folder / "nnUNetPlans.json").read_text())
    spoilt["configurations"]["2d"]["architecture"]["network_class_name"] = "os.abort"
    (folder / "spoiltPlans.json").write_text(json.dumps(spoilt))
    try:
        assert main(["trainers", "nnUNetTrainerNoSkip", "-d", volumes, "-c", "2d", "-p", "spoiltPlans"]) == 2
    finally:
        (folder / "spoiltPlans.json").unlink()
    (line,) = capsys.readouterr().err.splitlines()
    assert "network_class_name is 'os.abort'" in line
