"""Adversarial patches: where they may lie, that they are worse than noise, and that the attack leaves no trace."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_robust.perturbations import robust_range
from nnunet_robust.trainers import TRAINERS, trainer_class
from nnunet_robust.trainers.adversarial import RADIUS, AdversarialTraining, Box, allowed, ascend, robust_span
from nnunet_robust.trainers.base import RobustTrainer
from tests.conftest import train, weights
from tests.trainers.test_training import make

pytestmark = pytest.mark.usefixtures("small_unetr", "one_thread")


def patches(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 3, 17, 23), (1, 2, 5, 8, 9), (1, 1, 1, 1)])
def test_the_span_is_that_of_the_sweep(shape: tuple[int, ...]) -> None:
    given = patches(shape)
    given[0, 0] *= 100
    found = robust_span(given)
    assert found.shape == (*shape[:2], *[1] * (len(shape) - 2))
    for patch, span in zip(given, found, strict=True):
        low, high = robust_range(patch)
        assert torch.allclose(span.flatten(), high - low, rtol=1e-5)


def test_the_span_of_a_channel_nearly_all_equal_and_of_a_constant_one() -> None:
    given = torch.full((1, 2, 40, 40), 3.0)
    given[0, 0, 0, :2] = torch.tensor([1.0, 5.0])
    assert robust_span(given).flatten().tolist() == [4.0, 0.0]


def test_where_values_may_go_by_hand() -> None:
    # 201 values from 0 to 200: percentiles 1 and 199, a span of 198; 0.1 of that is 19.8
    ramp = torch.arange(201.0).reshape(1, 1, 3, 67)
    box = allowed(ramp, 0.1, [False])
    assert box.span.item() == pytest.approx(198)
    assert torch.allclose(box.low.flatten()[[0, 10, 100, 200]], torch.tensor([0, 0, 80.2, 180.2]))
    assert torch.allclose(box.high.flatten()[[0, 10, 100, 200]], torch.tensor([19.8, 29.8, 119.8, 200]))


def test_what_stays_as_it_is() -> None:
    """A constant channel, what lies outside of a mask, and the channels of a cascade's previous stage."""
    given = patches((2, 4, 12, 13))
    given[:, 0] = 7.0
    outside = torch.rand(2, 12, 13, generator=torch.Generator().manual_seed(1)) < 0.5
    given[:, 1][outside] = 0
    given[:, 3] = (given[:, 3] > 0).float()  # one-hot
    box = allowed(given, 0.1, [False, True, False])
    for bound in (box.low, box.high):
        assert torch.equal(bound[:, 0], given[:, 0]) and torch.equal(bound[:, 3], given[:, 3])
        assert not bound[:, 1][outside].any()
    width = box.high - box.low
    assert (width[:, 1][~outside] > 0).all() and (width[:, 2] > 0).all()


def test_steps_by_hand() -> None:
    start = torch.tensor([[[0.0, 0.0, 0.0, 0.9]]])
    box = Box(start - 1, start + 1, torch.full((1, 1, 1), 2.0))
    weight = torch.tensor([3.0, -1e-20, 0.0, 5.0])
    seen: list[Tensor] = []

    def loss(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return (weight * x).sum()

    assert torch.allclose(ascend(loss, start, box, 0.25, 1), torch.tensor([[[0.5, -0.5, 0.0, 1.4]]]))
    assert torch.allclose(ascend(loss, start, box, 0.25, 3), torch.tensor([[[1.0, -1.0, 0.0, 1.9]]]))  # of the box
    assert len(seen) == 4 and torch.equal(ascend(loss, start, box, 0.25, 0), start)
    broken = ascend(lambda x: (x * torch.tensor([torch.nan, 1, torch.inf, 1])).sum(), start, box, 0.25, 1)
    assert torch.allclose(broken, torch.tensor([[[0.0, 0.5, 0.5, 1.4]]]))  # no number: no move


def made_for(
    name: str, dataset: str, configuration: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, dict[str, Any]]:
    """A trainer as it is when an epoch begins, and a batch from its own loader."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    made = make(name, dataset, configuration)
    made.initialize()
    made.set_deep_supervision_enabled(made.enable_deep_supervision)
    made.on_epoch_start()
    made.on_train_epoch_start()
    batch = next(made.get_dataloaders()[0])
    return made, batch


def check_attacked(data: Tensor, found: Tensor, count: int) -> Tensor:
    """The contract of an attacked batch; returns which patches were attacked."""
    assert found.shape == data.shape and found.dtype == data.dtype
    changed = (found != data).flatten(1).any(1)
    assert int(changed.sum()) == count
    for before, after in zip(data[changed].numpy(), found[changed].numpy(), strict=True):
        for clean, channel in zip(before, after, strict=True):
            span = np.subtract(*np.percentile(clean.astype(np.float64), (99.5, 0.5)))
            assert np.abs(channel - clean).max() <= RADIUS * span * (1 + 1e-4)
            assert np.abs(channel - clean).max() > 0.99 * RADIUS * span or span == 0
            assert channel.min() >= clean.min() and channel.max() <= clean.max()
    return changed


ARMS = [*((trainer, "regions", "2d") for trainer in TRAINERS), ("nnUNetTrainer", "volumes", "3d_fullres")]


@pytest.mark.parametrize(("trainer", "dataset", "configuration"), ARMS)
def test_contract(
    trainer: str, dataset: str, configuration: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regions, an ignore label and three channels, or an anisotropic volume with two, one of them constant."""
    unetr = trainer == "nnUNetTrainerUNETR"
    patch = {"2d": "32", "3d_fullres": "8x32x32"}[configuration] + ("" if unetr else "_st3")
    name = f"{trainer}_ps{patch}_bs3_2iters_adv_seed2"
    made, batch = made_for(name, request.getfixturevalue(dataset), configuration, monkeypatch)
    data, target = batch["data"], batch["target"]
    data[:, -1] = 0.25
    before, state = data.clone(), copy.deepcopy(made.network.state_dict())
    modes = {key: module.training for key, module in made.network.named_modules()}
    drawn = torch.get_rng_state()

    changed = [check_attacked(data, made.attacked(data, target), count) for count in (1, 2) * 3]  # halves of three
    assert len({tuple(each.tolist()) for each in changed}) > 2  # which ones is drawn
    assert torch.equal(data, before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in made.network.parameters())
    assert all(torch.equal(value, state[key]) for key, value in made.network.state_dict().items())
    assert all(modes[key] == module.training for key, module in made.network.named_modules())
    assert made.network.training
    assert torch.equal(torch.get_rng_state(), drawn)  # the other draws of a training stay what they are

    assert np.isfinite(made.train_step(batch)["loss"])
    assert torch.equal(batch["data"], before)


def test_the_step_trains_on_the_attacked_patches(textures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a standard step on them, with gradients of the same bits: the attack adds nothing to them."""
    made, batch = made_for("nnUNetTrainer_st3_bs2_adv_seed1", textures, "2d", monkeypatch)
    stock, _ = made_for("nnUNetTrainer_st3_bs2_seed1", textures, "2d", monkeypatch)
    stock.network.load_state_dict(made.network.state_dict())
    again = copy.deepcopy(made)
    attacked = again.attacked(batch["data"], batch["target"])
    assert not torch.equal(attacked, batch["data"])
    assert made.train_step(batch) == stock.train_step({**batch, "data": attacked})
    pairs = zip(made.network.parameters(), stock.network.parameters(), strict=True)
    assert all(torch.equal(ours.grad, theirs.grad) for ours, theirs in pairs if theirs.grad is not None)


def test_a_batch_of_one_is_attacked_every_other_time(textures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = made_for("nnUNetTrainer_st3_bs1_2epochs_3iters_adv_seed1", textures, "2d", monkeypatch)
    data, target = batch["data"], batch["target"]
    counts = [int(not torch.equal(made.attacked(data, target), data)) for _ in range(3)]
    made.current_epoch = 1
    made.on_train_epoch_start()
    counts += [int(not torch.equal(made.attacked(data, target), data)) for _ in range(3)]
    assert counts == [0, 1, 0, 1, 0, 1]


def test_draws_depend_on_seed_and_epoch_alone(textures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = made_for("nnUNetTrainer_st3_bs2_2epochs_2iters_adv_seed1", textures, "2d", monkeypatch)

    def drawn(epoch: int, name: str = "nnUNetTrainer_st3_bs2_2epochs_2iters_adv_seed1") -> Tensor:
        other = copy.deepcopy(made)
        other.__class__ = trainer_class(name)
        other.current_epoch = epoch
        other.on_train_epoch_start()
        return other.attacked(batch["data"], batch["target"])

    first = drawn(0)
    torch.rand(7)
    assert torch.equal(drawn(0), first)
    for other in (drawn(1), drawn(0, "nnUNetTrainer_adv_seed2"), drawn(0, "nnUNetTrainer_adv")):
        assert not torch.equal(other, first)
    assert not torch.equal(drawn(0, "nnUNetTrainer_adv"), drawn(0, "nnUNetTrainer_adv"))  # no seed


def test_worse_than_noise_of_the_same_budget(
    textures: str, texture_models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a trained network, over several batches: each attacked half has a higher loss than with random noise."""
    made, _ = made_for("nnUNetTrainer_bs4_adv_seed1", textures, "2d", monkeypatch)
    made.network.load_state_dict(weights(train(textures, "2d", texture_models[0])))
    loader, generator = made.get_dataloaders()[0], torch.Generator().manual_seed(3)
    rises = []
    for _ in range(6):
        batch = next(loader)
        data = batch["data"]
        found = made.attacked(data, batch["target"])
        chosen = (found != data).flatten(1).any(1)
        box = allowed(data[chosen], RADIUS, [False])
        up = torch.rand(box.low.shape, generator=generator) < 0.5
        noisy = torch.where(up, box.high, box.low)

        def loss(patches: Tensor, target: list[Tensor] = [each[chosen] for each in batch["target"]]) -> float:  # noqa: B006
            with torch.no_grad():
                return float(made.loss(made.network(patches), target))

        rises.append((loss(found[chosen]) - loss(data[chosen]), loss(noisy) - loss(data[chosen])))
    assert all(attack > noise and attack > 0.02 for attack, noise in rises), rises
    assert sum(attack for attack, _ in rises) > 3 * sum(abs(noise) for _, noise in rises), rises


def test_batch_normalisation_and_dropout_are_left_alone(textures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = made_for("nnUNetTrainer_st3_bs2_adv_seed1", textures, "2d", monkeypatch)
    frozen = nn.BatchNorm2d(8).eval()  # what its user has put into evaluation mode stays there
    norm = nn.BatchNorm2d(8)
    made.network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), norm, nn.Dropout(), frozen, nn.Conv2d(8, 2, 1))
    made._attacked_loss = lambda output, target: output.square().mean()
    modes: list[bool] = []
    norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    before = copy.deepcopy(made.network.state_dict())
    made.attacked(batch["data"], batch["target"])
    assert modes == [False] * 3
    assert all(torch.equal(value, before[key]) for key, value in made.network.state_dict().items())
    assert norm.training and made.network[2].training and not frozen.training


def test_a_small_gradient_survives_half_precision(textures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 the gradients of such a loss are zero; scaled as the training step's they are not."""
    made, batch = made_for("nnUNetTrainer_st3_bs2_adv_seed1", textures, "2d", monkeypatch)
    network, loss = made.network, made._attacked_loss

    class Half(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            with torch.autocast("cpu", torch.float16):
                return [output.float() for output in network(x)]

    made.network = Half()
    made._attacked_loss = lambda output, target: 1e-5 * loss(output, target)

    def at_the_border() -> float:
        """Random starts are within the box, three steps of a gradient lead to its border."""
        found = copy.deepcopy(made).attacked(batch["data"], batch["target"])
        chosen = (found != batch["data"]).flatten(1).any(1)
        box = allowed(batch["data"][chosen], RADIUS, [False])
        return float(((found[chosen] == box.low) | (found[chosen] == box.high)).float().mean())

    without = at_the_border()
    made.grad_scaler = torch.amp.GradScaler("cpu")
    assert without < 0.1 < 0.4 < at_the_border()


def test_compiled_networks_are_attacked_as_they_are(textures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = made_for("nnUNetTrainer_st3_bs2_adv_seed1", textures, "2d", monkeypatch)
    expected = copy.deepcopy(made).attacked(batch["data"], batch["target"])
    calls: list[object] = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(graph)
        return graph.forward

    torch._dynamo.reset()
    made.network = torch.compile(made.network, backend=backend)
    assert torch.equal(made.attacked(batch["data"], batch["target"]), expected)
    assert not calls
    assert np.isfinite(made.train_step(batch)["loss"])
    assert len(calls) == 1 and made.network.training


def test_ddp_is_not_asked_while_attacking(textures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Dice of nnU-Net's 2d batches gathers all processes'; those need not attack at the same steps."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    asked: list[str] = []
    try:
        made = make("nnUNetTrainer_st3_bs2_adv_seed1", textures, "2d")
        made.is_ddp, made.device = True, torch.device("cpu")
        monkeypatch.setattr(nnunet_trainer_module, "DDP", lambda network, device_ids: DistributedDataParallel(network))
        made.initialize()
        made.on_train_epoch_start()
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        batch = next(made.get_dataloaders()[0])
        assert isinstance(made.network, DistributedDataParallel)

        def spy(owner: Any, what: str) -> None:
            original = getattr(owner, what)

            def spied(*args: Any, **kwargs: Any) -> Any:
                asked.append(what)
                return original(*args, **kwargs)

            monkeypatch.setattr(owner, what, spied)

        spy(dist, "all_gather")
        spy(dist, "all_reduce")
        spy(DistributedDataParallel, "forward")
        attacked = made.attacked(batch["data"], batch["target"])
        check_attacked(batch["data"], attacked, 1)
        assert not asked
        for _ in range(3):  # DDP tells of parameters without a gradient in the next step
            assert np.isfinite(made.train_step(batch)["loss"])
        assert asked.count("forward") == 3 and "all_gather" in asked
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("augmentation", ["", "_noDA", "_textureDA"])
def test_the_option_goes_with_every_trainer_and_augmentation(trainer: str, augmentation: str) -> None:
    with_attacks, without = (trainer_class(f"{trainer}{augmentation}{more}") for more in ("_adv", ""))
    assert issubclass(with_attacks, AdversarialTraining) and not issubclass(without, AdversarialTraining)
    order = [with_attacks.__mro__.index(cls) for cls in (RobustTrainer, AdversarialTraining, nnUNetTrainer)]
    assert order == sorted(order)  # it wins over nnU-Net's steps and yields to the trainer's own
    assert set(without.__mro__[1:]) <= set(with_attacks.__mro__)
