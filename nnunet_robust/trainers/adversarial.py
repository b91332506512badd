"""Training on adversarial patches, made anew for each batch against the network as it is: the option `_adv`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.trainers.names import Options

RADIUS = 0.03
"""The largest change of a voxel, in shares of its channel's robust range; about the papers' 8 / 255 of [0, 1]."""

STEPS = 3
_STEP = 2.5 / STEPS  # of the radius: far enough to get from any start to any border, with some way left to go along it
_PERCENTILES = (0.005, 0.995)


class Box(NamedTuple):
    """Where the values of patches may go; each (B, C, *spatial), but for `span`: (B, C, 1, ...).

    Attributes:
        low: the least value, at most the clean one.
        high: the largest value, at least the clean one.
        span: the robust range of each patch and channel; 0 where a channel is constant.
    """

    low: Tensor
    high: Tensor
    span: Tensor


def robust_span(patches: Tensor) -> Tensor:
    """The distance from the 0.5th to the 99.5th percentile of each patch and channel, linearly interpolated.

    Where the two are equal, as nearly all voxels are, it is that from minimum to maximum.

    Args:
        patches: float (B, C, *spatial), finite.

    Returns:
        (B, C, 1, ...), in the patches' units, >= 0.
    """
    values = patches.flatten(2).sort(dim=2).values  # not torch.quantile, which refuses more than 2**24 of them
    last = values.shape[2] - 1

    def percentile(share: float) -> Tensor:
        below = int(share * last)
        return torch.lerp(values[..., below], values[..., min(below + 1, last)], share * last - below)

    span = percentile(_PERCENTILES[1]) - percentile(_PERCENTILES[0])
    span = torch.where(span > 0, span, values[..., -1] - values[..., 0])
    return span.reshape(*span.shape, *[1] * (patches.ndim - 2))


def allowed(patches: Tensor, radius: float, masked: Sequence[bool]) -> Box:
    """Where an attack may move the values of patches.

    That is at most `radius` robust ranges from the clean value, and not out of what its own patch and channel has.

    Args:
        patches: float (B, C, *spatial), clean.
        radius: in shares of the robust range, >= 0.
        masked: of each of the image's channels, which come first, whether it is normalised within a mask. What is zero
            there is outside of the mask, and stays zero. Channels behind these are no image (a cascade's previous
            stage) and stay as they are.
    """
    axes = tuple(range(2, patches.ndim))
    span = robust_span(patches)
    low = torch.maximum(patches - radius * span, patches.amin(axes, keepdim=True))
    high = torch.minimum(patches + radius * span, patches.amax(axes, keepdim=True))
    fixed = torch.ones_like(patches, dtype=torch.bool)
    for channel, has_mask in enumerate(masked):
        fixed[:, channel] = (patches[:, channel] == 0) if has_mask else False
    return Box(torch.where(fixed, patches, low), torch.where(fixed, patches, high), span)


def ascend(loss: Callable[[Tensor], Tensor], start: Tensor, box: Box, step: float, steps: int) -> Tensor:
    """Projected gradient ascent in the l-infinity norm: x <- clip(x + step * span * sign(d loss / d x)).

    Gradients are taken with respect to the patches alone: those of the network's weights are neither computed nor
    added up. Where one is not a number, as can be when a scaled loss overflows float16, the value stays.

    Args:
        loss: of patches; only the gradient's sign counts, so that it may be scaled against underflow.
        start: within the box.
        box: of the patches.
        step: in shares of the robust range.
        steps: >= 0.

    Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1.
    """
    patches = start
    for _ in range(steps):
        leaf = patches.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        moved = patches + step * box.span * gradient.sign().nan_to_num(0.0)
        patches = torch.clamp(moved, box.low, box.high)
    return patches


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, then each of its modules back: statistics and dropout masks stay unmoved."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class AdversarialTraining(nnUNetTrainer):
    """A random half of each batch's patches is attacked before nnU-Net's training step; the rest stays clean.

    An attack starts at random within the budget and makes three steps of projected gradient ascent on the training's
    own loss (deep supervision, regions and the ignore label are as it has them). It acts on the patch as the network
    would get it, after augmentation. Of an odd number of patches the half is rounded down and up in turns, so that of a
    batch of one every other is attacked.

    The network is in evaluation mode meanwhile: batch normalisation takes its running statistics and leaves them,
    dropout is off; instance normalisation, nnU-Net's, is the same in both modes. It is called without DDP's wrapper and
    uncompiled, and the loss is one that does not ask the other processes: an attack is a process's own affair.

    What is drawn comes from a generator of its own: augmentation and sampling draw what they draw without `_adv`.

    References: Madry et al., ICLR 2018, arXiv 1706.06083 (training on projected gradient ascent); Wong et al., "Fast is
    better than free", ICLR 2020, arXiv 2001.03994 (with a random start, few steps are enough); Gu et al., "SegPGD",
    ECCV 2022, arXiv 2207.12391 (segmentation, half of the batch clean); Pang et al., "Bag of Tricks for Adversarial
    Training", ICLR 2021, arXiv 2010.00467 (evaluation mode while attacking).
    """

    options: ClassVar[Options]

    def initialize(self) -> None:
        """As nnU-Net, and the loss that attacks ascend: the training's, for this process alone."""
        super().initialize()
        alone: Any = copy.copy(self)
        alone.is_ddp = False  # else the Dice of a batch gathers that of all processes
        alone._do_i_compile = lambda: False
        self._attacked_loss = alone._build_loss()
        self._begin_drawing()

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's attacks, the same whether or not training was interrupted before it."""
        super().on_train_epoch_start()
        self._begin_drawing()

    def _begin_drawing(self) -> None:
        self._step = self.current_epoch * self.num_iterations_per_epoch
        seed = self.options.seed
        drawn = int(torch.randint(2**62, ())) if seed is None else seed
        self._generator = torch_generator(drawn, "adversarial", self.current_epoch, self.local_rank)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step on the batch with a half of its patches attacked."""
        given = batch["target"]
        data = batch["data"].to(self.device, non_blocking=True)
        targets = [each.to(self.device, non_blocking=True) for each in (given if isinstance(given, list) else [given])]
        attacked = self.attacked(data, targets if isinstance(given, list) else targets[0])
        return super().train_step({**batch, "data": attacked})

    def attacked(self, data: Tensor, target: Tensor | list[Tensor]) -> Tensor:
        """The patches with half of them attacked; the others are bit for bit the same.

        Args:
            data: float (B, C, *spatial), on the trainer's device; not modified.
            target: what the loss takes with it, B along the first axis of each.
        """
        count = (len(data) + self._step % 2) // 2
        self._step += 1
        if count == 0:
            return data
        # on the CPU, then moved: a GPU gets the same numbers
        chosen = torch.randperm(len(data), generator=self._generator)[:count].sort().values.to(self.device)
        clean = data[chosen]
        wanted = [each[chosen] for each in target] if isinstance(target, list) else target[chosen]
        box = allowed(clean, RADIUS, self._masked)
        uniform = torch.rand(clean.shape, generator=self._generator).to(clean)
        start = torch.clamp(box.low + uniform * (box.high - box.low), box.low, box.high)

        network = _bare(self.network)
        on_cuda = self.device.type == "cuda"  # where nnU-Net's step runs in mixed precision

        def loss(patches: Tensor) -> Tensor:
            with torch.autocast("cuda") if on_cuda else contextlib.nullcontext():
                value = self._attacked_loss(network(patches), wanted)
            # a loss over fewer patches has larger gradients than the step's, which the scale was found for
            return value if self.grad_scaler is None else self.grad_scaler.scale(value * (count / len(data)))

        with evaluating(network):
            return data.index_copy(0, chosen, ascend(loss, start, box, _STEP * RADIUS, STEPS))

    @property
    def _masked(self) -> list[bool]:
        """Of each of the image's channels, whether it is normalised within a mask."""
        names = self.dataset_json["modality" if "modality" in self.dataset_json else "channel_names"]
        return [bool(masked) for masked in self.configuration_manager.use_mask_for_norm[: len(names)]]


def _bare(network: nn.Module) -> nn.Module:
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network
