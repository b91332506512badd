"""The pipeline under stress: threads, several processes, kills, failures, full disks. The files must be the same."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images import pictures
from nnunet_robust.eval.inference import models as models_module
from nnunet_robust.eval.inference import precision
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.eval.results.parts import Part
from nnunet_robust.eval.sweep import engine, scene
from nnunet_robust.eval.sweep.sweep import SweepParameters, run_sweep
from tests.eval.noted_sweep import start
from tests.eval.results.test_results import full_disk
from tests.eval.small_device import SMALL, SmallDevice
from tests.eval.sweep.test_sweep import Silent, rows

CONDITIONS = {"gaussian_noise": (0.1, 0.3), "background_blur": (3.0,), "gaussian_noise+pixelation": (0.5,)}


@pytest.fixture
def parameters(
    textures: str, texture_models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SweepParameters:
    monkeypatch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
    return sweep_of(texture_models, tmp_path / "out")


def sweep_of(trainers: tuple[str, str], output: Path) -> SweepParameters:
    return SweepParameters(
        output=output, conditions=CONDITIONS, dataset="901", trainers=trainers, folds=["0"], device="cpu",
        save_predictions=True, mirroring=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(textures: str, texture_models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an undisturbed run."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_SECONDS_PER_TRIAL", 0.01)
        run_sweep(replace(sweep_of(texture_models, output), workers=0), Silent())
    return files(output)


def files(output: Path) -> dict[str, bytes]:
    """Everything that must not depend on how it came about."""
    assert not (output / "claims").exists() and not (output / "failures.csv").exists()
    found = [output / "results.csv", output / "inputs.csv", *output.glob("pictures/**/*.png")]
    found += output.glob("predictions/**/*.png")
    assert not [path for path in output.rglob("*") if "tmp" in path.name]
    return {str(path.relative_to(output)): path.read_bytes() for path in found}


def test_threads_change_nothing(parameters: SweepParameters, whole: dict[str, bytes]) -> None:
    threads, running = torch.get_num_threads(), threading.active_count()
    progress = Silent()
    run_sweep(replace(parameters, workers=3), progress)
    assert progress.steps == progress.total == 2 * 3 * 5 + 2 * 3
    assert files(parameters.output) == whole and len(whole) == 2 + 2 * 3 * 5 + 3 * (1 + 5 + 2 * 5)
    assert torch.get_num_threads() == threads
    assert threading.active_count() <= running + 1  # tqdm's monitor


def test_images_in_flight_are_few_however_many_conditions(parameters: SweepParameters, monkeypatch) -> None:
    made = Counter[str]()
    image, finish = scene.Scene.image, Part.add
    most = 0

    def count(self, condition, seed, *, as_it_is):
        nonlocal most
        made["images"] += 1
        most = max(most, made["images"] - made["done"])
        return image(self, condition, seed, as_it_is=as_it_is)

    def done(self, condition, added):
        made["done"] += "inputs" not in self.path.parts
        finish(self, condition, added)

    monkeypatch.setattr(scene.Scene, "image", count)
    monkeypatch.setattr(Part, "add", done)
    monkeypatch.setattr("nnunet_robust.eval.sweep.engine._IMAGES_AT_ONCE", 2)
    levels = tuple(round(0.01 * i, 2) for i in range(1, 21))
    many = replace(parameters, conditions={"brightness": levels}, trainers=parameters.trainers[:1], workers=2)
    run_sweep(many, Silent())
    assert made["images"] >= 3 * 21 and most <= 2 * (2 + 2) + 2


def test_a_picture_is_written_once(parameters: SweepParameters, monkeypatch) -> None:
    """Two threads at one file would take the temporary one away from each other."""
    written = Counter[Path]()
    write = pictures._write

    def count(path: Path, pixels: np.ndarray) -> None:
        written[path] += 1
        write(path, pixels)

    monkeypatch.setattr(pictures, "_write", count)
    run_sweep(replace(parameters, workers=1), Silent())
    assert len(written) == 3 * (1 + 5 + 2 * 5) and set(written.values()) == {1}


def test_shards_make_a_whole(parameters: SweepParameters, whole: dict[str, bytes]) -> None:
    made = []
    for text in ("2/3", "1/3", "3/3"):
        progress = Silent()
        run_sweep(replace(parameters, shard=text), progress)
        assert progress.steps == progress.total
        made.append(progress.steps)
    assert files(parameters.output) == whole
    # three cases under clean and three perturbations, one of which has two levels: shards are not the same size
    assert made[:2] == [2 * 5, 2 * 5]


def test_two_processes_share_a_folder(parameters: SweepParameters, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Equal files, and no prediction is made twice: both note what they make."""
    processes = [start(parameters, tmp_path / f"log{number}", beside=2) for number in range(2)]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert files(parameters.output) == whole
    logs = [(tmp_path / f"log{number}").read_text().splitlines() for number in range(2)]
    made = Counter(logs[0] + logs[1])
    assert len(made) == 2 * 3 * 5 and all(logs)
    # clean images are made once more for the pictures
    assert {line: count for line, count in made.items() if count > 1 + ("clean" in line)} == {}


@pytest.mark.timeout(2400)  # each kill meets a new process, which takes seconds to start
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.nightly)])
def test_killed_at_random_moments_it_goes_on_to_the_same_files(
    kills: int, parameters: SweepParameters, whole: dict[str, bytes], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    moments = random.Random(kills)
    killed = 0
    while killed < kills:
        # Slow processes are killed after so many more predictions, so that every kill meets a run at work.
        process = start(parameters, log)
        seen = log.read_text().count("\n") if log.exists() else 0
        wanted = seen + moments.randint(0, max(1, 60 // kills))
        deadline = time.monotonic() + 120
        while (log.read_text().count("\n") if log.exists() else 0) <= wanted and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(moments.random() * 0.02)
        if not process.is_alive():  # it was finished: begin a new one
            assert process.exitcode == 0
            assert files(parameters.output) == whole
            parameters = replace(parameters, output=tmp_path / f"again{killed}")
            continue
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += 1
    run_sweep(parameters, Silent())
    assert files(parameters.output) == whole


def test_a_model_that_fails_does_not_stop_the_others(
    parameters: SweepParameters, whole: dict[str, bytes], monkeypatch
) -> None:
    first, second = parameters.trainers
    members_many = SlidingWindow.members_many
    networks: list[int] = []

    def failing(self, images, by):
        if id(self) not in networks:
            networks.append(id(self))
        if id(self) == networks[-1] and len(networks) == 2 and any(image.std() > 1.001 for image in images):
            raise UserError("a single tile of 64x64 voxels does not fit into the memory of cpu")
        return members_many(self, images, by)

    monkeypatch.setattr(SlidingWindow, "members_many", failing)
    monkeypatch.setattr(models_module.Model, "export", export_but_once(models_module.Model.export))
    result = run_sweep(parameters, Silent())
    assert {failure.model.split("__")[0] for failure in result.failures} <= {first, second}
    broken = [failure for failure in result.failures if "RuntimeError: a bad day" in failure.reason]
    assert len(broken) == 1
    listed = rows(parameters.output / "failures.csv")
    assert [tuple(row.values())[:4] for row in listed] == [
        (f.case, f.perturbation, f.level, f.model) for f in result.failures
    ]
    there = len(rows(parameters.output / "results.csv"))
    assert there + len(result.failures) == 2 * 3 * 5

    monkeypatch.undo()
    assert run_sweep(parameters, Silent()).failures == ()
    assert files(parameters.output)["results.csv"] == whole["results.csv"]


def export_but_once(export):
    calls = iter(range(1000))

    def failing(self, logits, properties):
        if next(calls) == 9:
            raise RuntimeError("a bad day")
        return export(self, logits, properties)

    return failing


def test_a_perturbation_that_fails_is_told_once_an_image(parameters: SweepParameters, monkeypatch) -> None:
    image = scene.Scene.image

    def failing(self, condition, seed, *, as_it_is):
        if condition.level == 0.3:
            raise MemoryError("no room")
        return image(self, condition, seed, as_it_is=as_it_is)

    monkeypatch.setattr(scene.Scene, "image", failing)
    progress = Silent()
    failures = run_sweep(replace(parameters, workers=2), progress).failures
    assert progress.steps == progress.total
    assert [(f.case, f.perturbation, f.level, f.model, f.reason) for f in failures] == [
        (f"texture_test_{i:04d}", "gaussian_noise", "0.3", "", "MemoryError: no room") for i in range(3)
    ]


def test_a_full_disk_is_one_line_and_nothing_is_lost(
    parameters: SweepParameters, whole: dict[str, bytes], monkeypatch
) -> None:
    add = Part.add
    added = iter(range(1000))

    def fills(self, condition, rows):
        if next(added) == 12:
            full_disk(monkeypatch)
        add(self, condition, rows)

    monkeypatch.setattr(Part, "add", fills)
    with pytest.raises(UserError, match=r"the disk of .*out is full: make room, and the same command goes on") as error:
        run_sweep(replace(parameters, workers=2), Silent())
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    run_sweep(parameters, Silent())
    assert files(parameters.output) == whole


def test_an_interrupted_run_gives_its_claims_back(
    parameters: SweepParameters, whole: dict[str, bytes], monkeypatch
) -> None:
    class Interrupted(Silent):
        def step(self, case: int, cases: int, condition: str) -> None:
            super().step(case, cases, condition)
            if self.steps == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(replace(parameters, workers=2), Interrupted())
    assert not (parameters.output / "claims").exists()
    run_sweep(parameters, Silent())
    assert files(parameters.output) == whole


def test_the_command_line_tells_failures_and_ends_with_1(parameters: SweepParameters, monkeypatch, capsys) -> None:
    arguments = ["sweep", "-d", "901", "-f", "0", "-device", "cpu", "-o", str(parameters.output)]
    arguments += ["-tr", parameters.trainers[0], "--perturb", "contrast", "--levels", "0.5", "--workers", "1"]
    measured = scene.Scene.measured

    def failing(self, image, *, in_series):
        if self.files.name == "texture_test_0001":
            raise ValueError("no\nsense")
        return measured(self, image, in_series=in_series)

    monkeypatch.setattr(scene.Scene, "measured", failing)
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert "failed: texture_test_0001, clean: ValueError: no sense\n" in err
    assert "failed: texture_test_0001, contrast 0.5: ValueError: no sense\n" in err and "2 failures: see " in err
    assert "results.csv" in out and "Traceback" not in err
    monkeypatch.undo()
    assert main(arguments) == 0


LOGITS = 2 * 64 * 64 * 2  # bytes of one of the textures, in half precision


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("told", [True, False])
def test_little_memory_changes_nothing(
    workers: int, told: bool, parameters: SweepParameters, whole: dict[str, bytes], monkeypatch
) -> None:
    """Where the device says how much is free, nothing is refused; where it does not, what waits makes room."""
    device = SmallDevice(monkeypatch, 5 * LOGITS)
    monkeypatch.setattr(engine, "free_bytes", lambda of: device.size if told and of == SMALL else None)
    monkeypatch.setattr(engine, "_SHARE_OF_MEMORY", 0.6)
    result = run_sweep(replace(parameters, workers=workers), Silent())
    assert result.notes == ()  # nothing was summed on the CPU
    assert files(parameters.output) == whole
    assert (device.refused == 0) is told
    manifest = json.loads((parameters.output / "manifest.json").read_text())
    assert {model["choices"]["results_device"] for model in manifest["models"].values()} == {str(SMALL)}


def test_a_device_that_holds_no_logits_at_all_is_told(
    parameters: SweepParameters, whole: dict[str, bytes], monkeypatch
) -> None:
    SmallDevice(monkeypatch, LOGITS / 2)
    result = run_sweep(replace(parameters, workers=2), Silent())
    assert len(result.notes) == 2 and all("summed on the CPU" in note for note in result.notes)
    assert files(parameters.output) == whole


def test_ensembles_and_members_fit_too(parameters: SweepParameters, monkeypatch, tmp_path: Path) -> None:
    wanted = replace(parameters, ensemble=["all"], uncertainty=["folds", "mirroring"], mirroring=True, workers=2)
    run_sweep(replace(wanted, output=tmp_path / "much"), Silent())
    device = SmallDevice(monkeypatch, 14 * LOGITS)
    monkeypatch.setattr(engine, "free_bytes", lambda of: device.size if of == SMALL else None)
    monkeypatch.setattr(engine, "_SHARE_OF_MEMORY", 0.6)
    assert run_sweep(wanted, Silent()).notes == ()
    assert files(wanted.output) == files(tmp_path / "much")
