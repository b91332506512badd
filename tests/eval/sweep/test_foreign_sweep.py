"""A sweep goes on in a folder that others touched: one line, or the same results."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nnunet_robust.cli.main import main
from tests.foreign_files import CSV, JSON, Damage

MANIFEST = {name: JSON[name] for name in ("empty", "cut", "a list", "null", "UTF-16", "Latin-1", "deep", "twice")}
PART = {name: CSV[name] for name in ("empty", "noise", "UTF-16", "foreign columns", "a row too short", "a zero byte")}


@pytest.fixture(scope="module")
def arguments(textures: str, texture_models: tuple[str, str], nnunet: Path) -> list[str]:
    raw = Path(os.environ["nnUNet_raw"]) / textures
    cases = ["-i", str(raw / "imagesTs"), "-l", str(raw / "labelsTs")]
    return ["sweep", "-d", "901", "-tr", texture_models[0], "-f", "0", *cases, "--perturb", "contrast=0.5",
            "--disable-tta", "-device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def swept(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swept") / "out"
    assert main([*arguments, "-o", str(out)]) == 0
    return out


@pytest.mark.parametrize("damage", MANIFEST.values(), ids=MANIFEST)
def test_a_manifest(
    damage: Damage, arguments: list[str], swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(swept, tmp_path / "out"))
    damage(out / "manifest.json")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main([*arguments, "-o", str(out)]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(out / "manifest.json") in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", PART.values(), ids=PART)
def test_a_part(
    damage: Damage, arguments: list[str], swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(swept, tmp_path / "out"))
    part = next(path for path in sorted((out / "parts").glob("nnUNetTrainer*/contrast/*.csv")))
    damage(part)
    capsys.readouterr()
    code = main([*arguments, "-o", str(out)])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if code == 0:
        assert (out / "results.csv").read_bytes() == (swept / "results.csv").read_bytes()
    else:
        assert code == 2 and str(part) in said
