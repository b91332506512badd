"""Checkpoints and plans of strangers: nothing that they hold runs, whatever command loads them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.trust import load_checkpoint
from nnunet_robust.eval.sweep.sweep import SweepParameters

CPU = torch.device("cpu")
MARKER = "somebody_s_code_ran"


class Payload:
    """Unpickling it makes the marker, in the folder where the process is."""

    def __init__(self, function: Callable[..., Any] = os.system, argument: str = f"touch {MARKER}") -> None:
        self.called = function, (argument,)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return self.called


class Lazy(dict):
    """A container of a class of its own."""


def record(**more: Any) -> dict[str, Any]:
    """What nnU-Net's checkpoints hold, in small."""
    return {
        "network_weights": {"a": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16)},
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"losses": [np.float32(-0.3), np.float64(np.nan)], "dice": [[np.float32(0.5)], [np.int64(2)]]},
        "_best_ema": np.float64(0.25),
        "current_epoch": 3,
        "init_args": {"plans": {"a": [1, None, True]}, "device": torch.device("cuda", 1), "fold": 0},
        "inference_allowed_mirroring_axes": (0, 1),
        **more,
    }


HARMFUL: dict[str, tuple[Any, str]] = {
    "a call": ({"logging": Payload()}, "posix.system"),
    "in a nested tuple": ({"init_args": {"plans": [({"x": (1, (Payload(),))},)]}}, "posix.system"),
    "in a class": ({"logging": Lazy(a=Payload())}, "test_trust.Lazy"),
    "among the weights": ({"network_weights": {"w": Payload(eval, "open('x', 'w')")}}, "eval"),
    "a file": ({"logging": Payload(open, MARKER)}, "open"),
}


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not list((tmp_path / "here").iterdir())


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or one != one)


# --- checkpoints


@pytest.mark.parametrize("zipped", [True, False])
def test_what_nnunet_saves_is_loaded_as_it_is(tmp_path: Path, zipped: bool) -> None:
    torch.save(record(), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    before = set(torch.serialization.get_safe_globals())
    assert same(load_checkpoint(tmp_path / "c.pth"), record())
    assert set(torch.serialization.get_safe_globals()) == before  # nothing is allowed to others for that


@pytest.mark.parametrize("zipped", [True, False])
def test_what_was_saved_on_a_gpu_comes_to_the_cpu(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:3")  # what a GPU's tensors are saved with
    torch.save(record(), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.undo()
    assert b"cuda:3" in (tmp_path / "c.pth").read_bytes()
    found = load_checkpoint(tmp_path / "c.pth")
    assert same(found, record()) and found["network_weights"]["a"].device == CPU


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", ["f2", "f4", "f8", "i1", "i8", "u2", "b1"])
def test_numbers_of_every_type_and_order_of_bytes(tmp_path: Path, code: str, order: str) -> None:
    number = np.frombuffer(b"\1" * int(code[1]), np.dtype(code).newbyteorder(order))[0]
    torch.save({"x": number}, tmp_path / "c.pth")
    found = load_checkpoint(tmp_path / "c.pth")["x"]
    assert same(found, number)


def test_numbers_as_numpy_1_writes_them(tmp_path: Path) -> None:
    torch.save(record(), tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "c.pth").read_bytes()
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    other = content.replace(new, old) if new in content else content.replace(old, new)
    assert other != content
    (tmp_path / "c.pth").write_bytes(other)
    assert same(load_checkpoint(tmp_path / "c.pth"), record())


@pytest.mark.parametrize("dtype", ["O", "V8", "U2", "M8[s]", "c8"])
def test_what_is_no_number_is_refused(tmp_path: Path, dtype: str) -> None:
    torch.save({"x": np.dtype(dtype)}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"numpy.dtype, which could run code .* --trust-checkpoints"):
        load_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", HARMFUL)
def test_code_in_a_checkpoint_is_refused_by_name(tmp_path: Path, kind: str, zipped: bool) -> None:
    harmful, name = HARMFUL[kind]
    torch.save(record(**harmful), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as caught:
        load_checkpoint(tmp_path / "c.pth")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / 'c.pth'} holds ") and f"{name}, which could run code" in line
    assert line.endswith("if you trust whoever made it, add --trust-checkpoints")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", [0, 4, 5])
def test_other_protocols_run_nothing_either(tmp_path: Path, protocol: int) -> None:
    torch.save(record(logging=Payload()), tmp_path / "c.pth", pickle_protocol=protocol)
    with pytest.raises(UserError, match=r"c\.pth .*--trust-checkpoints$"):
        load_checkpoint(tmp_path / "c.pth")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(record(), tmp_path / "whole.pth")
    contents = {"empty": b"", "cut": (tmp_path / "whole.pth").read_bytes()[:-100], "text": b"hello\n" * 100}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} cannot be read as a checkpoint"):
            load_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(UserError, match="it holds a list"):
        load_checkpoint(tmp_path / "list")


def test_whoever_is_trusted_may_do_anything(tmp_path: Path) -> None:
    torch.save(record(logging=Payload()), tmp_path / "c.pth")
    assert load_checkpoint(tmp_path / "c.pth", trusted=True)["logging"] == 0
    Path(MARKER).unlink()


# --- every command


@pytest.fixture
def folder(textures: str, texture_models: tuple[str, str], nnunet: Path, tmp_path: Path) -> Path:
    """A model's folder, to be spoilt."""
    name = f"{texture_models[0]}__nnUNetPlans__2d"
    return Path(shutil.copytree(nnunet / "nnUNet_results" / textures / name, tmp_path / name))


@pytest.fixture(scope="module")
def made(
    textures: str,
    texture_models: tuple[str, str],
    nnunet: Path,
    calibration: SweepParameters,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """What the commands need besides: made with the model as it was."""
    model = nnunet / "nnUNet_results" / textures / f"{texture_models[0]}__nnUNetPlans__2d"
    raw, out = nnunet / "nnUNet_raw" / textures, tmp_path_factory.mktemp("made")
    found = {"images": raw / "imagesTs", "labels": raw / "labelsTs", "sweep": calibration.output}
    found |= {"calibration": out / "c.json", "reference": out / "r.json", "usual": out / "usual"}
    found["usual"].mkdir()
    image = np.asarray(Image.open(next(found["images"].glob("*.png"))))
    for number in range(40):
        shifted = np.roll(image, 3 * number, axis=0)
        Image.fromarray(shifted).save(found["usual"] / f"usual_{number:02d}_0000.png")
    common = ["-m", str(model), "-device", "cpu", "--disable-tta"]
    given = ["-i", str(found["images"]), "-l", str(found["labels"]), "-o", str(found["calibration"])]
    assert main(["calibrate", *common, *given, "--alpha", "0.9", "--interval-alpha", "0.5"]) == 0
    reference = ["-i", str(found["usual"]), "-o", str(found["reference"]), "--rate", "0.05"]
    assert main(["monitor", "fit", *common, *reference]) == 0
    return found


COMMANDS = {
    "sweep": "sweep -m {model} -i {images} -l {labels} -o {out} --perturb contrast -device cpu",
    "calibrate": "calibrate -m {model} -i {images} -l {labels} -o {out}.json -device cpu",
    "apply": "apply -m {model} -i {images} -o {out} --calibration {calibration} -device cpu",
    "qa": "qa -m {model} -i {images} -o {out} -device cpu",
    "qa, calibrated": "qa -m {model} -i {images} -o {out} --calibration {calibration} -device cpu",
    "denoise": "denoise -m {model} -i {images} -o {out} --always",
    "monitor fit": "monitor fit -m {model} -i {usual} -o {out}.json -device cpu",
    "monitor check": "monitor check {reference} -m {model} -i {images} -o {out} -device cpu",
    "recommend": "recommend -m {model} -i {images} --from {sweep} -device cpu",
}


def refused(command: str, folder: Path, made: dict[str, Path], capsys: pytest.CaptureFixture, *more: str) -> str:
    """The one line that a command says, which must leave nothing."""
    out = folder.parent / "out"
    paths = {**made, "model": folder, "out": out}
    capsys.readouterr()
    code = main([part.format(**paths) for part in COMMANDS[command].split()] + list(more))
    (line,) = (said for said in capsys.readouterr().err.splitlines() if not said.startswith("loading"))
    assert code == 2 and line.startswith("error: "), line
    assert not list(out.glob("*.csv")) and not out.with_suffix(".json").exists()
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_a_checkpoint_holds(
    command: str, folder: Path, made: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    file = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), "logging": (1, [Payload()])}, file)
    line = refused(command, folder, made, capsys)
    assert f"{file} holds posix.system, which could run code" in line and "--trust-checkpoints" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_what_plans_name(
    command: str, folder: Path, made: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    file = folder / "plans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "subprocess.Popen"
    file.write_text(json.dumps(plans))
    line = refused(command, folder, made, capsys)
    assert f"{file}: network_class_name is 'subprocess.Popen'" in line and "--trust-checkpoints" in line


def test_trusted_by_the_flag(folder: Path, made: dict[str, Path], capsys: pytest.CaptureFixture) -> None:
    file = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), "logging": Payload()}, file)
    paths = {**made, "model": folder, "out": folder.parent / "out"}
    line = [part.format(**paths) for part in COMMANDS["denoise"].split()]
    assert main([*line, "--trust-checkpoints"]) == 0, capsys.readouterr().err
    Path(MARKER).unlink()


def test_plans_name_modules_of_a_stranger(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "theirs.py").write_text(
        f"open({str(tmp_path / 'here' / MARKER)!r}, 'w')\nclass Net: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    file = folder / "plans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["norm_op"] = "theirs.Net"
    file.write_text(json.dumps(plans))
    with pytest.raises(UserError, match=r"norm_op is 'theirs\.Net'"):
        load_model(folder, None, "checkpoint_final.pth", CPU, True, None)
    assert "theirs" not in sys.modules
    with pytest.raises(UserError, match="cannot be loaded"):  # trusted, it is imported, and is no layer
        load_model(folder, None, "checkpoint_final.pth", CPU, True, None, trusted=True)
    assert isinstance(sys.modules.pop("theirs"), types.ModuleType)
    (tmp_path / "here" / MARKER).unlink()


def test_a_loaded_model_is_what_nnunet_loads(folder: Path) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    ours = load_model(folder, ["0"], "checkpoint_final.pth", CPU, False, None)
    stock = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    assert {field.name for field in fields(ours.predictor)} <= vars(stock).keys()
    assert type(ours.predictor.network) is type(stock.network)
    for one, other in ((ours.predictor.network, stock.network),):
        assert same(dict(one.state_dict()), dict(other.state_dict()))
    assert same([dict(of) for of in ours.predictor.list_of_parameters], [dict(of) for of in stock.list_of_parameters])
    for name in ("trainer_name", "allowed_mirroring_axes", "dataset_json", "use_mirroring", "device", "tile_step_size"):
        assert getattr(ours.predictor, name) == getattr(stock, name)
    assert ours.predictor.plans_manager.plans == stock.plans_manager.plans
    assert ours.predictor.label_manager.all_labels == stock.label_manager.all_labels
    assert ours.epochs == {"0": 1}
