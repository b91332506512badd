"""The base of all our trainers: nnU-Net's, with the options of its name, whole checkpoints, and a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_robust.common.files import replace_durably
from nnunet_robust.common.seeding import seed_everything, stable_seed
from nnunet_robust.trainers import records
from nnunet_robust.trainers.architecture import Architecture
from nnunet_robust.trainers.names import Options
from nnunet_robust.trainers.plans import adapt_plans, check_patch_size, total_stride


class RobustTrainer(Architecture, nnUNetTrainer):
    """nnU-Net's trainer with the options that its name carries (see `nnunet_robust.trainers.names`).

    `trainers.trainer_class` joins it with the architecture of a name. Without either it is the standard trainer, except
    that a checkpoint is written whole or not at all.
    """

    options: ClassVar[Options] = Options()

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature, which it inspects
    ) -> None:
        plans = self.adapt(plans, configuration)
        self.check_plans(PlansManager(plans).get_configuration(configuration), configuration)
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.options.epochs is not None:
            self.num_epochs = self.options.epochs
        if self.options.iterations is not None:
            self.num_iterations_per_epoch = self.options.iterations
            self.num_val_iterations_per_epoch = max(1, round(self.options.iterations / 5))
        self._foreground_ratios: list[float] = []  # of the patches of this epoch so far

    @classmethod
    def adapt(cls, plans: dict[str, Any], configuration: str) -> dict[str, Any]:
        """A copy of the plans with what this trainer and its name change in `configuration`: what gets persisted.

        Raises:
            UserError: the options do not fit the plans.
        """
        return adapt_plans(plans, configuration, cls.options)

    @classmethod
    def check_plans(cls, configuration_manager: ConfigurationManager, configuration: str) -> None:
        """Refuse plans that this trainer's network cannot work with.

        Raises:
            UserError: the patch size does not fit the network; says the nearest that do.
        """
        patch_size = configuration_manager.patch_size
        strides = configuration_manager.network_arch_init_kwargs["strides"]
        check_patch_size(patch_size, total_stride(strides, len(patch_size)), f"the network of {configuration!r}")

    def initialize(self) -> None:
        """Build network, optimiser and loss; seeded if the name has a seed."""
        if self.options.seed is not None:
            seed_everything(self.options.seed, "initialize")
        super().initialize()

    @classmethod
    def get_training_transforms(cls, *args: Any, **kwargs: Any) -> BasicTransform:
        """nnU-Net's augmentation; with a seed in the name, without what depends on the clock."""
        transforms = super().get_training_transforms(*args, **kwargs)
        if cls.options.seed is not None:
            for transform in transforms.transforms:
                blur = getattr(transform, "transform", transform)
                if isinstance(blur, GaussianBlurTransform):
                    blur.benchmark = False  # it times convolution against FFT, whose last bits differ
        return transforms

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's loaders; with a seed in the name, workers that are seeded and deliver in a fixed order.

        nnU-Net's own workers draw their seeds from the operating system and deliver in the order they finish.
        """
        if self.options.seed is None:
            return super().get_dataloaders()
        parts = iter(("train", "validation"))

        def seeded_workers(data_loader: Any, num_processes: int, pin_memory: bool, **_: Any) -> MultiThreadedAugmenter:
            # The epoch is in the seed: a resumed training goes on with other batches than it began with.
            what = (self.options.seed or 0, next(parts), self.current_epoch)
            seeds = [stable_seed(*what, worker) % 2**32 for worker in range(num_processes)]
            # batchgenerators seeds NumPy alone: all forked workers would draw the same numbers from torch.
            data_loader.set_thread_id = partial(_start_worker, data_loader.set_thread_id, seeds)
            return MultiThreadedAugmenter(data_loader, None, num_processes, 2, seeds, pin_memory=pin_memory)

        # The one place where nnU-Net names the class of its workers; there is no argument for it.
        theirs = nnunet_trainer_module.NonDetMultiThreadedAugmenter
        nnunet_trainer_module.NonDetMultiThreadedAugmenter = seeded_workers
        try:
            return super().get_dataloaders()
        finally:
            nnunet_trainer_module.NonDetMultiThreadedAugmenter = theirs

    def on_epoch_start(self) -> None:
        """Seed each epoch by its number, so that a resumed training draws what an unbroken one draws."""
        if self.options.seed is not None:
            seed_everything(self.options.seed, "epoch", self.current_epoch)
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Begin a new record of foreground ratios."""
        self._foreground_ratios = []
        super().on_train_epoch_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step; the foreground ratios of its patches are noted before they go to the device."""
        labels = self.label_manager
        self._foreground_ratios += records.foreground_ratios(batch["target"], labels.ignore_label, labels.has_regions)
        return super().train_step(batch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Write the epoch's foreground ratios, of all of DDP's ranks, to `fold_X/foreground_ratio.csv`."""
        super().on_train_epoch_end(train_outputs)
        ratios = [self._foreground_ratios]
        if self.is_ddp:
            ratios = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(ratios, self._foreground_ratios)
        if self.local_rank == 0:
            file = Path(self.output_folder, records.FILE)
            records.write_epoch(file, self.current_epoch, [ratio for rank in ratios for ratio in rank])

    def save_checkpoint(self, filename: str) -> None:
        """Write the checkpoint to a temporary name, then rename it: a kill or a power cut leaves the old one whole."""
        temporary = Path(f"{filename}.tmp")
        super().save_checkpoint(str(temporary))
        if temporary.exists():  # not where checkpoints are disabled, nor on DDP's other ranks
            replace_durably(temporary, Path(filename))


def _start_worker(set_thread_id: Callable[[int], None], seeds: Sequence[int], worker: int) -> None:
    torch.manual_seed(seeds[worker])
    set_thread_id(worker)
