"""Who may import whom, folder by folder: dependencies point one way, and folders form no cycle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nnunet_robust

PACKAGE = Path(nnunet_robust.__file__).parent

# A folder -> the folders that stand directly below it. It may import these, and all that stand below them.
BELOW: dict[str, tuple[str, ...]] = {
    "cli": ("study",),
    "study": ("study/examples", "deployment/drift", "deployment/recommendation"),
    "study/examples": (),
    "deployment/drift": ("deployment/qa",),
    "deployment/qa": ("deployment", "eval/sweep", "eval/report"),
    "deployment/recommendation": ("deployment", "eval/sweep", "eval/report"),
    "deployment": (),
    "eval/sweep": ("eval/attacks", "eval/denoising", "eval/conformal", "eval"),
    "eval/attacks": ("eval/inference",),
    "eval/denoising": ("eval/inference",),
    "eval/conformal": ("eval/inference",),
    "eval": ("eval/images", "pages"),
    "eval/inference": ("eval/images",),
    "eval/images": ("eval/uncertainty",),
    "eval/uncertainty": ("eval/statistics",),
    "eval/report": ("eval/report/sections",),
    "eval/report/sections": ("pages", "eval/uncertainty"),
    "pages": ("eval/statistics",),
    "eval/statistics": ("eval/results",),
    "eval/results": ("eval/metrics",),
    "eval/metrics": ("trainers", "dataset_conversion"),
    "plugin": ("trainers",),
    "trainers": ("networks", "perturbations"),
    "dataset_conversion": ("networks", "perturbations"),
    "networks": ("common",),
    "perturbations": ("common",),
    "common": ("",),
    "": (),  # __init__.py and hook.py, at the root of the package
}


def reachable(folder: str) -> set[str]:
    """All folders that a folder may import."""
    found: set[str] = set()
    for below in BELOW[folder]:
        found |= {below} | reachable(below)
    return found


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    files = sorted(package.rglob("*.py"))
    names = {file: ".".join(("nnunet_robust", *file.relative_to(package).with_suffix("").parts)) for file in files}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


def imports(package: Path) -> Iterator[tuple[str, str, str]]:
    """The importing file, its folder, and the folder that is imported; those inside of functions count, too."""
    found = modules(package)
    for file in found.values():
        here = file.parent.relative_to(package).as_posix().removeprefix(".")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in found else node.module for name in whole]
            for name in names:
                if name.split(".")[0] == "nnunet_robust":
                    target = found[name].parent.relative_to(package).as_posix().removeprefix(".")
                    yield file.relative_to(package).as_posix(), here, target


def violations(package: Path) -> list[str]:
    """Imports that the order forbids, as sentences."""
    return [
        f"{file} imports {target or 'the root'}/, which does not stand below {here or 'the root'}/"
        for file, here, target in imports(package)
        if target != here and target not in reachable(here)
    ]


def test_every_folder_has_its_place() -> None:
    assert {file.parent.relative_to(PACKAGE).as_posix().removeprefix(".") for file in PACKAGE.rglob("*.py")} == {*BELOW}


def test_every_import_points_down() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("eval/images/cases.py", "from nnunet_robust.eval.inference import models"),
        ("eval/report/page.py", "from nnunet_robust.eval.inference.models import Model"),
        ("perturbations/noise.py", "from nnunet_robust.trainers import names"),
        ("networks/skips.py", "def late():\n    import nnunet_robust.eval.metrics.metrics"),
    ],
)
def test_an_import_in_the_wrong_direction_is_told(tmp_path: Path, file: str, line: str) -> None:
    for name in modules(PACKAGE).values():
        copy = tmp_path / name.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("")
    assert violations(tmp_path) == []
    (tmp_path / file).write_text(line)
    (told,) = violations(tmp_path)
    assert told.startswith(f"{file} imports ")
