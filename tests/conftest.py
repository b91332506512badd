"""Small real datasets, planned and preprocessed by nnU-Net, and real trainings on them, shared by the whole session."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.pretend_cuda import Tally

# Read by nnU-Net when it is first imported. One process each, as starting more takes longer than these cases; and as it
# caps torch's threads, a stock command in a process of its own then computes the same bits.
os.environ["nnUNet_def_n_proc"] = "1"
# Read by OpenMP when torch is first imported: of two processes, those threads that wait would else take the cores from
# those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

SMALL_UNETR = {"feature_size": 2, "hidden_size": 12, "mlp_dim": 16, "num_heads": 3}
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is only for the night, whatever else `-m` says."""
    if "nightly" not in config.option.markexpr:
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        items[:] = [item for item in items if item not in nightly]
        config.hook.pytest_deselected(items=nightly)


@pytest.fixture(autouse=True, scope="session")
def heeded_signals() -> Iterator[None]:
    """Ctrl-C and a closed terminal reach the commands under test, also where whoever started the tests ignores them.

    A shell ignores SIGINT for what it starts in the background, and nohup SIGHUP; commands keep to that.
    """
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in wanted.items():
        if before[number] == signal.SIG_IGN:
            signal.signal(number, handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(command: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a console command of this Python's environment, as a user would."""
    executable = Path(sys.executable).with_name(command)
    return subprocess.run(
        [str(executable), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def run_ok(command: str, *arguments: str | Path, **environment: str) -> str:
    """`run`, which must succeed; returns what it printed."""
    done = run(command, *arguments, **environment)
    assert done.returncode == 0, f"{command} {arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def here(entry: Callable[[], None], *arguments: str | Path) -> None:
    """Run a stock command in this process, with threads where it would start processes of its own.

    Every process takes seconds to import torch and nnU-Net, longer than these cases take. What it computes is the same.

    Args:
        entry: the function of nnU-Net's that the command calls.
        arguments: of the command.
    """
    import torch

    threads = torch.get_num_threads()  # the stock commands change that
    with pytest.MonkeyPatch.context() as patch:
        pools_of_threads(patch)
        patch.setattr(sys, "argv", [entry.__name__, *map(str, arguments)])
        try:
            entry()
        finally:
            torch.set_num_threads(threads)


def pools_of_threads(patch: pytest.MonkeyPatch) -> None:
    """nnU-Net's pools of processes become pools of threads."""
    patch.setattr(multiprocessing, "get_context", lambda method=None: SimpleNamespace(Pool=ThreadPool))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For what is so small that it spends its time waiting for torch's threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tally]:
    """A pretend CUDA device; what is counted."""
    import torch

    from nnunet_robust.eval.inference import precision
    from tests.pretend_cuda import pretend_cuda

    monkeypatch.setattr(precision, "_COMPILED", {})  # what is not compiled there must not be taken for it

    if torch.cuda.is_available():
        pytest.skip("there is a real CUDA device: see -m gpu")
    with pretend_cuda() as tally:
        yield tally


@pytest.fixture
def small_unetr(monkeypatch: pytest.MonkeyPatch) -> None:
    """UNETR's sizes are the paper's; a checkpoint of those has a gigabyte."""
    from nnunet_robust.trainers.unetr import TransformerEncoder

    monkeypatch.setattr(TransformerEncoder, "sizes", SMALL_UNETR)


@pytest.fixture(scope="session")
def nnunet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """nnU-Net's three folders, empty, in a temporary root; single-process loading, so that seeds are exact."""
    root = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        for name in FOLDERS:
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        patch.delenv("nnUNet_n_proc_DA", raising=False)  # 0 there breaks nnU-Net's planning
        patch.setenv("nnUNet_compile", "f")
        yield root


def preprocess(dataset: int, *configurations: str) -> None:
    """nnU-Net's fingerprint, plans and preprocessed cases of a dataset."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry

    collect, each = DatasetFingerprintExtractor.collect_foreground_intensities, ["1"] * len(configurations)
    with pytest.MonkeyPatch.context() as patch:
        # Of however few voxels it draws 100 million, with replacement, which takes longer than all else.
        few = staticmethod(lambda segmentation, images, **_: collect(segmentation, images, num_samples=10_000))
        patch.setattr(DatasetFingerprintExtractor, "collect_foreground_intensities", few)
        here(plan_and_preprocess_entry, "-d", str(dataset), "-c", *configurations, "-np", *each, "-npfp", "1")


@pytest.fixture(scope="session")
def textures(nnunet: Path) -> str:
    """Dataset 901: 2d, PNG, 64 x 64, one channel, 8 training and 3 test cases."""
    from nnunet_robust.dataset_conversion.textures import TextureParameters, synthesize_textures

    parameters = TextureParameters(cases=8, test_cases=3, size=64)
    name = synthesize_textures(nnunet / "nnUNet_raw", 901, parameters, "Textures").name
    preprocess(901, "2d")
    return name


@pytest.fixture(scope="session")
def volumes(nnunet: Path) -> str:
    """Dataset 902: 3d, NIfTI, 3 x 1 x 1 mm, two channels, two labels, 6 training and 2 test cases, one empty."""
    from nnunet_robust.dataset_conversion.writer import Case, write_dataset

    def case(name: str, empty: bool = False) -> Case:
        rng = np.random.default_rng(sum(map(ord, name)))
        shape = (14, 40, 44)
        z, y, x = np.ogrid[tuple(map(slice, shape))]
        cz, cy, cx = rng.integers((5, 15, 15), (9, 25, 28))
        inside = ((z - cz) * 3.0) ** 2 + (y - cy) ** 2 + (x - cx) ** 2
        label = np.where(inside < 5**2, 2, np.where(inside < 10**2, 1, 0)).astype(np.uint8) * (not empty)
        noise = rng.normal(0, 8, (2, *shape)).astype(np.float32)
        images = [100 + 60 * (label > 0) + noise[0], -900 + 400 * (label == 2) + noise[1]]
        return Case(name, [image.astype(np.float32) for image in images], label, spacing_mm=(3.0, 1.0, 1.0))

    name = write_dataset(
        nnunet / "nnUNet_raw",
        902,
        "Volumes",
        [case(f"train_{i}") for i in range(6)],
        [case("test_0"), case("test_1", empty=True)],
        channel_names={0: "T1", 1: "CT"},
        labels={"background": 0, "shell": 1, "core": 2},
        file_ending=".nii.gz",
        provenance={"source": "tests"},
    ).name
    preprocess(902, "3d_fullres", "2d")
    return name


def train(
    dataset: str, configuration: str, trainer: str, fold: str = "0", *, resume: bool = False, validate: bool = True
) -> Path:
    """Train through nnU-Net's own entry in this process, unless that is done; `validate=False`: without its validation.

    Returns:
        The model's folder.
    """
    import torch
    from nnunetv2.run.run_training import run_training
    from nnunetv2.training.logging.nnunet_logger import MetaLogger
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__nnUNetPlans__{configuration}"
    if resume or not (folder / f"fold_{fold}" / "validation" / "summary.json").is_file():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("nnUNet_n_proc_DA", "0")
            pools_of_threads(patch)
            # Its picture of the losses takes longer than such an epoch.
            patch.setattr(MetaLogger, "plot_progress_png", lambda *_, **__: None)
            if not validate:
                patch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_, **__: None)
            run_training(dataset, configuration, fold, trainer, continue_training=resume, device=torch.device("cpu"))
    return folder


def train_until_killed(dataset: str, configuration: str, trainer: str) -> None:
    """A training that dies after its first epoch, with a checkpoint: `train(..., resume=True)` goes on."""
    from nnunet_robust.trainers import trainer_class

    cls = trainer_class(trainer)
    with pytest.MonkeyPatch.context() as patch:

        def killed(self: Any) -> None:
            self.save_every = 1
            super(cls, self).on_epoch_end()
            if self.current_epoch == 1:
                raise KeyboardInterrupt

        patch.setattr(cls, "on_epoch_end", killed)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, configuration, trainer, validate=False)


def weights(folder: Path, checkpoint: str = "checkpoint_final.pth") -> dict[str, Any]:
    """The weights of a model folder's fold 0."""
    import torch

    return dict(torch.load(folder / "fold_0" / checkpoint, weights_only=False)["network_weights"])


@pytest.fixture(scope="session")
def texture_models(textures: str) -> tuple[str, str]:
    """Two trainers that are trained on the textures, fold 0: enough for a Dice that is not zero."""
    trainers = ("nnUNetTrainer_bs4_1epochs_12iters_seed1", "nnUNetTrainerNoSkip_bs4_1epochs_12iters_seed1")
    for trainer in trainers:
        train(textures, "2d", trainer)
    return trainers


@pytest.fixture(scope="session")
def volume_model(volumes: str) -> str:
    """A no-skip trainer with a small patch (so that there are several tiles), trained on the volumes, fold 0."""
    trainer = "nnUNetTrainerNoSkip_ps12x32x32_bs2_1epochs_6iters_seed1"
    train(volumes, "3d_fullres", trainer)
    return trainer


@pytest.fixture(scope="session")
def regions(nnunet: Path) -> str:
    """Dataset 905: 2d, PNG, 48 x 48, three channels, regions and an ignore label, 6 training and 2 test cases."""
    from nnunet_robust.dataset_conversion.writer import Case, write_dataset

    def case(name: str) -> Case:
        rng = np.random.default_rng(sum(map(ord, name)))
        y, x = np.ogrid[:48, :48]
        cy, cx = rng.integers(18, 30, 2)
        squared = (y - cy) ** 2 + (x - cx) ** 2
        label = np.where(squared < 5**2, 2, np.where(squared < 12**2, 1, 0)).astype(np.uint8)
        label[:6] = 3  # nobody has drawn anything there
        images = [(40 + 60 * label + rng.integers(0, 30, label.shape)).astype(np.uint8) for _ in range(3)]
        return Case(name, images, label)

    name = write_dataset(
        nnunet / "nnUNet_raw",
        905,
        "Regions",
        [case(f"train_{i}") for i in range(6)],
        [case("test_0"), case("test_1")],
        channel_names={0: "R", 1: "G", 2: "B"},
        labels={"background": 0, "whole": 1, "core": 2, "ignore": 3},
        file_ending=".png",
        provenance={"source": "tests"},
    ).name
    # The writer knows no regions: what a user would write by hand.
    file = nnunet / "nnUNet_raw" / name / "dataset.json"
    dataset_json = json.loads(file.read_text())
    dataset_json["labels"]["whole"] = [1, 2]
    dataset_json["regions_class_order"] = [1, 2]
    file.write_text(json.dumps(dataset_json))
    preprocess(905, "2d")
    return name


@pytest.fixture(scope="session")
def resenc_plans(volumes: str) -> dict[str, dict[str, Any]]:
    """The plans of nnU-Net's residual-encoder planners for the volumes, by name."""
    from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_experiment_entry

    found = {}
    for size in "ML":
        here(plan_experiment_entry, "-d", volumes[7:10], "-pl", f"nnUNetPlannerResEnc{size}")
        name = f"nnUNetResEncUNet{size}Plans"
        found[name] = json.loads((Path(os.environ["nnUNet_preprocessed"]) / volumes / f"{name}.json").read_text())
    return found


def stock_predictor(folder: Path, mirroring: bool) -> Any:
    """nnU-Net's own predictor of a model's folder, with all its folds, on the CPU."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), None, "checkpoint_final.pth")
    return predictor
