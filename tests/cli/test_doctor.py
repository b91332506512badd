"""Each fault provoked: the doctor finds it, and names the command that mends it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from nnunet_robust import hook
from nnunet_robust.cli import doctor
from nnunet_robust.cli.doctor import Check
from nnunet_robust.trainers import TRAINERS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def sound_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """nnU-Net's folders exist and the hook is active, whatever this machine has set."""
    monkeypatch.delenv(hook.VARIABLE, raising=False)
    monkeypatch.setenv(hook.VARIABLE, hook.PLUGIN_FOLDER)
    for variable in doctor.FOLDERS:
        monkeypatch.setenv(variable, str(tmp_path))


def _versions(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: versions[name] if name in versions else real(name))


def test_a_sound_environment_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    rows = doctor.checks()
    assert [row for row in rows if row.ok is False] == []
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert {"Python", "nnunetv2", "torch", "torchvision", "hook", "lookup", "GPU", *TRAINERS, *doctor.FOLDERS} <= set(
        names
    )
    assert all("\n" not in row.detail + row.fix for row in rows)
    assert capsys.readouterr().out == ""


def test_nnunet_itself_does_not_find_the_trainer_without_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(hook.VARIABLE)
    rows = {row.name: row for row in doctor.checks()}
    assert rows["hook"].ok is False
    assert rows["lookup"].ok is False
    assert "nnUNetTrainerNoSkip" in rows["lookup"].detail
    assert rows["lookup"].fix == rows["hook"].fix


def test_a_trainer_of_our_name_that_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as nnUNetTrainerNoSkip\n"
    (tmp_path / "somebodys.py").write_text(source)
    monkeypatch.setenv(hook.VARIABLE, os.pathsep.join([str(tmp_path), hook.PLUGIN_FOLDER]))
    row = doctor._lookup("")
    assert row.ok is False
    assert "another nnUNetTrainerNoSkip" in row.detail


def test_a_trainer_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> type:
        raise ImportError(f"cannot import {name}\nsecond line")

    monkeypatch.setattr("nnunet_robust.trainers.trainer_class", broken)
    rows = doctor._trainers("the fix")
    assert [row.name for row in rows] == list(TRAINERS)
    assert all(row.ok is False and row.fix == "the fix" and "\n" not in row.detail for row in rows)


@pytest.mark.parametrize(
    ("version", "ok"),
    [((3, 9, 1), False), ((3, 10, 0), True), ((3, 13, 9), True), ((3, 14, 0), None)],
)
def test_python(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], ok: bool | None) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    row = doctor._python()
    assert row.ok is ok
    assert row.fix == ("" if ok else "python3.13 -m venv .venv")


def test_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    _versions(monkeypatch, **{"nnunet-robust": None})
    row = doctor._package()
    assert row.ok is None
    assert row.fix == f"pip install --force-reinstall --no-deps -e {ROOT}"


@pytest.mark.parametrize(
    ("version", "ok"),
    [("2.7.9", False), ("2.8", True), ("2.8.1", True), ("2.9.0rc1", True), ("2.10.0", False), ("3.0", False)],
)
def test_nnunet_version(monkeypatch: pytest.MonkeyPatch, version: str, ok: bool) -> None:
    _versions(monkeypatch, nnunetv2=version)
    row = doctor._nnunet()
    assert row.ok is ok
    assert version in row.detail
    assert row.fix == ("" if ok else 'pip install "nnunetv2>=2.8,<2.10"')


def test_nnunet_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    _versions(monkeypatch, nnunetv2=None)
    assert doctor._nnunet() == Check("nnunetv2", False, "not installed", 'pip install "nnunetv2>=2.8,<2.10"')


def test_the_versions_are_those_of_pyproject() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert f'"{doctor.NNUNET_REQUIREMENT}"' in project
    assert 'requires-python = ">=3.10"' in project
    tested = [(3, int(minor)) for minor in re.findall(r"Python :: 3\.(\d+)", project)]
    assert (min(tested), max(tested)) == (doctor.PYTHON_SINCE, doctor.PYTHON_TESTED)


def test_torch_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    row = doctor._torch()
    assert row.ok is False
    assert row.fix.startswith("pip install --force-reinstall torch torchvision")


@pytest.mark.parametrize(
    ("torch", "fix"),
    [
        ("2.13.0", "pip install --force-reinstall torch torchvision"),
        (
            "2.13.0+cpu",
            "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu",
        ),
    ],
)
def test_torchvision_of_another_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torch: str, fix: str) -> None:
    error = "operator torchvision::nms does not exist"
    (tmp_path / "torchvision.py").write_text(f"raise RuntimeError({error!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    _versions(monkeypatch, torch=torch, torchvision="0.28.0")
    row = doctor._torchvision()
    assert row.ok is False
    assert error in row.detail
    assert torch in row.detail
    assert row.fix == fix


def test_hook_not_active(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(hook.VARIABLE, "/mine")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    row = doctor._hook()
    assert row.ok is False
    assert f"{doctor.HOOK_FILE} is not installed" in row.detail
    assert row.fix.startswith("pip install --force-reinstall --no-deps ")
    # The other way out is an export; run as a shell would, it keeps the user's folder first.
    value = row.fix.split("export nnUNet_extTrainer=")[1]
    echoed = os.popen(f"echo {value}").read().strip()
    assert echoed == f"/mine:{hook.PLUGIN_FOLDER}"

    (tmp_path / doctor.HOOK_FILE).touch()
    assert f"though {doctor.HOOK_FILE} is installed" in doctor._hook().detail


def test_hook_active(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert doctor._hook().ok is True
    assert "set by hand" in doctor._hook().detail
    (tmp_path / doctor.HOOK_FILE).touch()
    assert doctor._hook().ok is True
    assert f"{doctor.HOOK_FILE} is installed" in doctor._hook().detail


@pytest.mark.parametrize("variable", list(doctor.FOLDERS))
@pytest.mark.parametrize("value", [None, ""])
def test_folder_not_set(monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None) -> None:
    monkeypatch.delenv(variable)
    if value is not None:
        monkeypatch.setenv(variable, value)
    row = doctor._folder(variable)
    assert row.ok is False
    assert row.fix.startswith(f"export {variable}=")
    assert "mkdir -p" in row.fix


def test_folder_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "not here"
    monkeypatch.setenv("nnUNet_raw", str(folder))
    row = doctor._folder("nnUNet_raw")
    assert row == Check("nnUNet_raw", False, f"{folder} does not exist", f"mkdir -p '{folder}'")
    os.system(row.fix)
    assert doctor._folder("nnUNet_raw").ok is True


def test_folder_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setenv("nnUNet_results", str(path))
    row = doctor._folder("nnUNet_results")
    assert row.ok is False
    assert "is a file" in row.detail
    os.system(row.fix)
    assert doctor._folder("nnUNet_results").ok is True


def test_folder_not_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    row = doctor._folder("nnUNet_preprocessed")
    assert row.ok is False
    assert row.fix == f"chmod u+rwx {tmp_path}"


def test_no_gpu_is_only_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    row = doctor._gpu()
    assert row.ok is None
    assert row.fix == ""


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    row = doctor._gpu()
    assert row.ok is None
    assert row.fix == "pip install --force-reinstall torch torchvision"
