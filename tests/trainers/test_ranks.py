"""Seeds of a training on several GPUs: nnU-Net's DDP, by gloo and two processes on a CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
from torch import multiprocessing as processes
from torch.nn.parallel import DistributedDataParallel

from nnunet_robust.trainers import base
from tests.conftest import pools_of_threads
from tests.trainers.test_training import make

NAME = "nnUNetTrainer_ps32_st3_bs4_2epochs_2iters_adv_seed1"
RANKS = 2


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()


class Killed(Exception):
    """The training ends as if it had been killed."""


def one_rank(rank: int, store: str, dataset: str, killed: bool, folder: str) -> None:
    """Train as one of nnU-Net's ranks, on a CPU, and write down what this rank saw."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    with pytest.MonkeyPatch.context() as patch:
        pools_of_threads(patch)
        patch.setattr(MetaLogger, "plot_progress_png", lambda *_, **__: None)
        patch.setattr(nnunet_trainer_module, "DDP", lambda network, device_ids: DistributedDataParallel(network))
        seen: dict[str, Any] = {"patches": [], "attacked": [], "weights": []}
        for left in [True, False] if killed else [False]:
            trainer = make(NAME, dataset, "2d")
            trainer.device, trainer.grad_scaler, trainer.save_every = torch.device("cpu"), None, 1
            if killed and not left:
                trainer.load_checkpoint(str(Path(trainer.output_folder, "checkpoint_latest.pth")))
            watch(trainer, seen, dies_after_an_epoch=left)
            try:
                trainer.run_training()
            except Killed:
                continue
            finally:
                dist.barrier()
        seen["weights"].append(digest(*trainer.network.state_dict().values()))
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


def watch(trainer: Any, seen: dict[str, Any], dies_after_an_epoch: bool) -> None:
    """Note what goes into the network, attacks included, and the weights before the first step."""
    attacked, ends = trainer.attacked, trainer.on_epoch_end

    def noted(data: torch.Tensor, target: Any) -> torch.Tensor:
        if not seen["weights"]:
            seen["weights"].append(digest(*trainer.network.state_dict().values()))
        made = attacked(data, target)
        seen["patches"] += [digest(patch) for patch in data]
        seen["attacked"] += [digest(patch) for patch, clean in zip(made, data, strict=True) if not patch.equal(clean)]
        return made

    def on_epoch_end() -> None:
        ends()
        if dies_after_an_epoch:
            raise Killed

    trainer.attacked, trainer.on_epoch_end = noted, on_epoch_end


def ranks(dataset: str, killed: bool, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    arguments = (str(folder / "store"), dataset, killed, str(folder))
    processes.spawn(one_rank, arguments, nprocs=RANKS)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.slow
def test_ranks_start_alike_and_draw_patches_of_their_own(
    textures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in a second run, which is killed after an epoch and resumed."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    first = ranks(textures, False, tmp_path / "first")
    assert first[0]["weights"] == first[1]["weights"]  # at the start, and at the end: gradients are shared
    assert first[0]["weights"][0] != first[0]["weights"][1]
    patches = [patch for rank in first for patch in [*rank["patches"], *rank["attacked"]]]
    assert len(patches) == len(set(patches)) == RANKS * 2 * 2 * (2 + 1)  # epochs, iterations, patches, a half attacked
    assert ranks(textures, True, tmp_path / "again") == first


@pytest.fixture
def seeds(textures: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Tells the seeds that a rank gives to its workers, and to the epoch."""
    drawn: dict[str, Any] = {"workers": []}

    class Augmenter:
        def __init__(self, loader: Any, _transform: Any, _number: int, _cached: int, seeds: list[int], **_: Any):
            drawn["workers"].append(seeds)

        def __next__(self) -> None:
            """The first batch, which nnU-Net leaves out."""

    def seeds_of(rank: int, epoch: int) -> dict[str, Any]:
        drawn.update(workers=[])
        made = make("nnUNetTrainer_ps32_st3_bs4_2epochs_2iters_seed1", textures, "2d")
        made.batch_size, made.local_rank, made.current_epoch = 4, rank, epoch
        made.get_dataloaders()
        made.on_epoch_start()
        return {**drawn}

    monkeypatch.setattr(base, "MultiThreadedAugmenter", Augmenter)
    monkeypatch.setattr(base, "seed_everything", lambda *what: drawn.update(epoch=what))
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    yield seeds_of


def test_workers_of_every_rank_have_seeds_of_their_own(seeds: Any) -> None:
    drawn = [seed for rank in range(3) for part in seeds(rank, 0)["workers"] for seed in part]
    assert len(drawn) == len(set(drawn)) == 3 * (2 + 1)  # of training and of validation
    assert seeds(1, 0) == seeds(1, 0) != seeds(1, 1)


def test_the_first_rank_has_the_seeds_of_a_training_on_one_device(seeds: Any) -> None:
    """Trainings of one process stay what they were before ranks had seeds of their own."""
    alone = seeds(0, 3)
    expected = [[base.stable_seed(1, part, 3, worker) % 2**32 for worker in range(count)] for part, count in PARTS]
    assert alone == {"workers": expected, "epoch": (1, "epoch", 3)}
    assert seeds(1, 3)["epoch"] == (1, "epoch", 3, "rank", 1)


PARTS = (("train", 2), ("validation", 1))
