"""Real trainings through nnU-Net, in this process: one suite over every trainer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_robust.common.errors import UserError
from nnunet_robust.trainers import TRAINERS, trainer_class
from nnunet_robust.trainers.base import _start_worker
from tests.common.power_cut import Recorder
from tests.conftest import here, train, train_until_killed, weights

pytestmark = pytest.mark.usefixtures("small_unetr")


def load_plans(dataset: str) -> tuple[dict, dict]:
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset
    return json.loads((folder / "nnUNetPlans.json").read_text()), json.loads((folder / "dataset.json").read_text())


def make(name: str, dataset: str, configuration: str):
    plans, dataset_json = load_plans(dataset)
    return trainer_class(name)(
        plans={**plans, "continue_training": False}, configuration=configuration, fold=0, dataset_json=dataset_json,
        device=torch.device("cpu"),
    )  # fmt: skip


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize(("configuration", "patch"), [("2d", "32"), ("3d_fullres", "12x24x24")])
def test_options_reach_the_model_folder_and_prediction(
    trainer: str, configuration: str, patch: str, volumes: str, tmp_path: Path
) -> None:
    from nnunet_robust.eval.inference.loading import load_model

    has_stages = trainer != "nnUNetTrainerUNETR"
    if not has_stages:
        patch = patch.replace("12x24x24", "16x32x32")  # multiples of 16
    name = f"{trainer}_ps{patch}{'_st3' if has_stages else ''}_bs3_1epochs_2iters_seed1"
    folder = train(volumes, configuration, name, validate=False)  # the prediction goes the same way
    saved = json.loads((folder / "plans.json").read_text())["configurations"][configuration]
    axes = {"2d": 2, "3d_fullres": 3}[configuration]
    expected = [int(n) for n in patch.split("x")] * (axes if "x" not in patch else 1)
    assert saved["patch_size"] == expected and saved["batch_size"] == 3
    if has_stages:
        assert saved["architecture"]["arch_kwargs"]["n_stages"] == 3

    model = load_model(folder, ["0"], "checkpoint_final.pth", torch.device("cpu"), True, None)
    assert list(model.predictor.configuration_manager.patch_size) == expected
    if has_stages:
        assert len(model.predictor.network.encoder.stages) == 3
    images = Path(os.environ["nnUNet_raw"]) / volumes / "imagesTs"
    here(predict_entry_point, "-d", volumes, "-c", configuration, "-f", "0", "-tr", name, "-i", images, "-o", tmp_path,
         "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta", "--disable_progress_bar")  # fmt: skip
    for case in ("test_0", "test_1"):
        predicted = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{case}.nii.gz")))
        assert predicted.shape == (14, 40, 44) and set(np.unique(predicted)) <= {0, 1, 2}
    log = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)["logging"]
    assert len(log["train_losses"]) == 1
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("trainer", "options"),
    [*((trainer, "_bs2_2epochs_2iters") for trainer in TRAINERS), ("nnUNetTrainer", "_bs3_2epochs_3iters_adv")],
)
def test_seeded_runs_are_bit_equal_and_resume_exactly(trainer: str, options: str, textures: str, monkeypatch) -> None:
    stages = "" if trainer == "nnUNetTrainerUNETR" else "_st3"
    name = f"{trainer}{stages}{options}_seed5"
    folder = train(textures, "2d", name, validate=False)
    first = weights(folder)

    # Once more, killed after the first epoch, then resumed with --c.
    shutil.rmtree(folder)
    train_until_killed(textures, "2d", name)
    assert equal(weights(train(textures, "2d", name, resume=True, validate=False)), first)


def test_another_seed_is_another_training(textures: str) -> None:
    names = [f"nnUNetTrainer_st3_bs2_1epochs_2iters_seed{seed}" for seed in (5, 6)]
    first, other = (weights(train(textures, "2d", name, validate=False)) for name in names)
    assert not equal(first, other)


WORKERS = """
import json, multiprocessing, os, sys, torch
from pathlib import Path
from nnunet_robust.trainers import trainer_class

def show(name):
    folder = Path(os.environ["nnUNet_preprocessed"], sys.argv[1])
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    trainer = trainer_class(name)(
        plans={**plans, "continue_training": False}, configuration="2d", fold=0,
        dataset_json=json.loads((folder / "dataset.json").read_text()), device=torch.device("cpu"),
    )
    trainer.on_train_start()
    sums = [next(trainer.dataloader_train)["data"].double().sum().item().hex() for _ in range(4)]
    print("SUMS", *sums, flush=True)
    for worker in multiprocessing.active_children():  # batchgenerators does not always end them in peace
        worker.kill()

trainer_class(sys.argv[2])  # imported once, before there are threads
for name in sys.argv[2:]:
    if os.fork() == 0:
        try:
            show(name)
        finally:
            os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_seeded_workers_draw_the_same_batches(textures: str) -> None:
    """In processes of their own, as a training is: forked workers and this one's threads do not go together."""
    names = [f"nnUNetTrainer_bs2_1epochs_2iters_seed{seed}" for seed in (1, 1, 2)]
    environment = {**os.environ, "nnUNet_n_proc_DA": "2"}
    command = [sys.executable, "-c", WORKERS, textures, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    shown = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("SUMS")]
    assert len(shown) == 3, done.stderr
    first, again, other = shown
    assert first == again
    assert len(set(first)) == 4 and not set(first) & set(other)  # the two workers differ, and so do seeds


def test_seeded_augmentation_does_not_depend_on_the_clock(textures: str) -> None:
    """nnU-Net's blur times two algorithms and takes the faster; their results differ in the last bits."""

    def benchmarks(name: str) -> list[bool]:
        transforms = (
            make(name, textures, "2d").get_training_transforms((64, 64), (0, 0), None, (0, 1), False).transforms
        )
        blurs = [getattr(t, "transform", t) for t in transforms]
        return [blur.benchmark for blur in blurs if isinstance(blur, GaussianBlurTransform)]

    assert benchmarks("nnUNetTrainer_bs2_seed1") == [False]
    assert benchmarks("nnUNetTrainer_bs2") == [True]


def test_workers_seed_torch_too() -> None:
    """batchgenerators seeds NumPy alone."""

    class Loader:
        def set_thread_id(self, worker: int) -> None:
            self.worker = worker

    drawn: dict[int, list[float]] = {}
    for worker in (0, 1, 0):
        loader = Loader()
        _start_worker(loader.set_thread_id, [11, 12], worker)
        assert loader.worker == worker
        drawn.setdefault(worker, []).append(torch.rand(1).item())
    assert drawn[0][0] == drawn[0][1] != drawn[1][0]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_regions_ignore_label_and_colour_channels(trainer: str, regions: str) -> None:
    """A real training and validation; textural noise and attacks are on their way through the trainer's own steps."""
    size = "32" if trainer == "nnUNetTrainerUNETR" else "32_st3"
    folder = train(regions, "2d", f"{trainer}_ps{size}_bs2_1epochs_2iters_textureDA_adv_seed1")
    summary = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())
    assert set(summary["mean"]) == {"(1, 2)", "2"}
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_augmentation_means_none(trainer: str, textures: str) -> None:
    made = make(f"{trainer}_noDA", textures, "2d")
    _, _, initial, mirror_axes = made.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert mirror_axes is None and made.inference_allowed_mirroring_axes is None
    assert list(initial) == list(made.configuration_manager.patch_size)
    transforms = made.get_training_transforms((64, 64), (0, 0), None, None, False).transforms
    assert [type(t).__name__ for t in transforms] == ["RemoveLabelTransform"]


def test_options_set_lengths(textures: str) -> None:
    made = make("nnUNetTrainer_7epochs_30iters", textures, "2d")
    assert (made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch) == (7, 30, 6)
    plain = make("nnUNetTrainer_bs2", textures, "2d")
    assert (plain.num_epochs, plain.num_iterations_per_epoch, plain.num_val_iterations_per_epoch) == (1000, 250, 50)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("_ps40", "40x40 does not fit.*multiple of 16x16.*32x32 or 48x48"),
        ("_ps16", "more than one voxel left.*32x32"),
        ("_ps32x32x32", "3 axes.*has 2"),
        ("_st9", "has 5 stages: keep 3 to 5"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(options: str, says: str, textures: str) -> None:
    with pytest.raises(UserError, match=says):
        make(f"nnUNetTrainerNoSkip{options}", textures, "2d")
    results = Path(os.environ["nnUNet_results"]) / textures
    assert not (results / f"nnUNetTrainerNoSkip{options}__nnUNetPlans__2d").exists()


def test_a_kill_while_saving_leaves_the_old_checkpoint(textures: str, monkeypatch) -> None:
    made = make("nnUNetTrainerNoSkip_bs2_1epochs_3iters", textures, "2d")
    made.initialize()
    file = Path(made.output_folder) / "checkpoint_latest.pth"
    made.save_checkpoint(str(file))
    before = file.read_bytes()

    def torn(checkpoint: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        made.save_checkpoint(str(file))
    assert file.read_bytes() == before


def test_a_power_cut_leaves_the_old_checkpoint_or_the_new(textures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("nnUNetTrainerNoSkip_bs2_1epochs_4iters", textures, "2d")
    folder = Path(made.output_folder)
    old, new = b"an old checkpoint", b"a new checkpoint"
    (folder / "checkpoint_latest.pth").write_bytes(old)
    monkeypatch.setattr(nnUNetTrainer, "save_checkpoint", lambda self, name: Path(name).write_bytes(new))
    recorder = Recorder.watch(folder, monkeypatch)
    made.save_checkpoint(str(folder / "checkpoint_latest.pth"))
    recorder.look()
    for done in range(len(recorder.steps) + 1):
        found = {left.get("checkpoint_latest.pth") for left in recorder.leftovers(done)}
        assert found <= ({old, new} if done < len(recorder.steps) else {new})
