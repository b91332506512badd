"""Every command takes a colour image as one file, nnU-Net's own layout, and gives what it gives for three files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import nnunetv2.utilities.utils
import numpy as np
import pytest
from PIL import Image

from nnunet_robust.cli.main import main
from nnunet_robust.eval.inference import precision
from tests.conftest import train

TRAINERS = ("nnUNetTrainer_ps32_bs2_1epochs_4iters_seed1", "nnUNetTrainerNoSkip_ps32_bs2_1epochs_4iters_seed1")
KINDS = ("split", "rgb")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def quickly() -> Iterator[None]:
    """nnU-Net starts twelve processes to list the files of a folder; the networks are not timed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnunetv2.utilities.utils, "Pool", ThreadPool)
        patch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
        yield


@pytest.fixture(scope="module")
def models(regions: str) -> list[Path]:
    return [train(regions, "2d", trainer, validate=False) for trainer in TRAINERS]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve labelled images: three files each in `split`, one in `rgb`; none of a third channel stands alone."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:48, :48]
    for kind in KINDS:
        for name in ("images", "labels"):
            (folder / kind / name).mkdir(parents=True)
    for number in range(12):
        squared = (y - 24) ** 2 + (x - rng.integers(18, 30)) ** 2
        label = np.where(squared < 5**2, 2, np.where(squared < 12**2, 1, 0)).astype(np.uint8)
        pixels = (40 + 60 * label[..., None] + rng.integers(0, 30, (*label.shape, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "rgb" / "images" / f"new_{number:02d}_0000.png")
        for channel in range(3):
            Image.fromarray(pixels[..., channel]).save(folder / "split/images" / f"new_{number:02d}_000{channel}.png")
        for kind in KINDS:
            Image.fromarray(label).save(folder / kind / "labels" / f"new_{number:02d}.png")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def both(command: list[str], cases: Path, tmp_path: Path, output: str, expected: int = 0) -> tuple[Path, Path]:
    """Run a command on the two folders; returns what it has written for each."""
    written = []
    for kind in KINDS:
        target = tmp_path / kind / output
        target.parent.mkdir(parents=True, exist_ok=True)
        given = [part.format(images=cases / kind / "images", labels=cases / kind / "labels", kind=tmp_path / kind)
                 for part in command]  # fmt: skip
        assert main([*given, "-o", str(target)]) == expected
        written.append(target)
    return written[0], written[1]


def test_every_command(
    models: list[Path], cases: Path, regions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = ["-i", "{images}", "-l", "{labels}"]
    model, cpu = ["-m", str(models[0])], ["-device", "cpu"]

    swept = both(
        ["sweep", "-d", regions, *labelled, "-tr", *TRAINERS, "-f", "0", *cpu, "--disable-tta",
         "--perturb", "gaussian_noise", "--levels", "0.1"],
        cases, tmp_path, "sweep",
    )  # fmt: skip
    for table in ("results.csv", "inputs.csv"):
        assert (swept[0] / table).read_bytes() == (swept[1] / table).read_bytes()
    assert len({row["case"] for row in rows(swept[1] / "results.csv")}) == 12

    tables = both(["complexity", "-d", regions, *labelled], cases, tmp_path, "complexity.csv")
    assert tables[0].read_bytes() == tables[1].read_bytes()

    calibrations = both(
        ["calibrate", *labelled, *model, *cpu, "--alpha", "0.3", "--interval-alpha", "0.3"], cases, tmp_path, "c.json"
    )
    bounds = [json.loads(path.read_text()) for path in calibrations]
    assert bounds[0]["bounds"] == bounds[1]["bounds"]
    capsys.readouterr()

    calibrated = ["-i", "{images}", *model, *cpu, "--calibration", "{kind}/c.json"]
    for command, name, table in ((["apply"], "applied", "ratings.csv"), (["qa"], "qa", "qa.csv")):
        outputs = both([*command, *calibrated], cases, tmp_path, name, expected=3 if command == ["qa"] else 0)
        assert (outputs[0] / table).read_bytes() == (outputs[1] / table).read_bytes()
    # They are the calibration's own images, and known as such, whatever the files.
    assert all("of the calibration" in row["reasons"] for row in rows(tmp_path / "rgb" / "qa" / "qa.csv"))

    references = both(["monitor", "fit", "-i", "{images}", *model, *cpu, "--disable-tta"], cases, tmp_path, "r.json")
    assert [json.loads(path.read_text())["setup"]["channels"] for path in references] == ["3", "3"]
    streams = both(["monitor", "check", "{kind}/r.json", "-i", "{images}", *cpu], cases, tmp_path, "stream")
    assert [len(rows(folder / "images.csv")) for folder in streams] == [0, 0]  # all were the reference's

    capsys.readouterr()
    denoised = both(["denoise", "-i", "{images}", *model, "--always"], cases, tmp_path, "denoised")
    for path in (denoised[1]).glob("*.png"):
        pixels = np.asarray(Image.open(path))
        alone = [np.asarray(Image.open(denoised[0] / f"{path.stem[:-4]}000{channel}.png")) for channel in range(3)]
        assert pixels.shape == (48, 48, 3) and np.array_equal(pixels, np.stack(alone, -1))
    assert capsys.readouterr().err.count("not looked at") == 0

    for kind in KINDS:
        answer = tmp_path / f"{kind}.json"
        assert main(["recommend", "-i", str(cases / kind / "images"), "--from", str(tmp_path / kind / "sweep"), *model,
                     *cpu, "--json", str(answer)]) in (0, 3)  # fmt: skip
    answers = [json.loads((tmp_path / f"{kind}.json").read_text()) for kind in KINDS]
    assert answers[0]["images"] == answers[1]["images"] and len(answers[1]["images"]) == 12
