"""Attacks against hand-written ones, on functions whose worst point is known, and on trained networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.eval.attacks.attack import ATTACKS
from nnunet_robust.eval.attacks.attack import attack as attack_scaled
from nnunet_robust.eval.attacks.budget import NORMS, Ball, Budget
from nnunet_robust.eval.attacks.gradient import WindowGradient
from nnunet_robust.eval.attacks.losses import Weighting
from nnunet_robust.eval.attacks.model_victim import ModelVictim
from nnunet_robust.eval.attacks.rows import against, perturbation
from nnunet_robust.eval.attacks.victim import Answer, Score, Victim
from nnunet_robust.eval.images.cases import LoadedCase, cases_of_dataset
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.perturbations import perturb, robust_range
from tests.conftest import train
from tests.eval.attacks.test_chain import load

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed: int = 0) -> torch.Generator:
    return torch_generator(seed, "case", "attack", 0)


def raw_image(*shape: int) -> torch.Tensor:
    """Two channels of other units, and one that is constant."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(
        np.stack([rng.normal(0, 1, shape) * 100 - 500, rng.gamma(2, 1, shape), np.full(shape, 7.0)])
    )


class Function:
    """A loss of the image in closed form; its Dice is always the same, so that the loss decides."""

    def __init__(self, loss: Callable[[torch.Tensor], torch.Tensor], dice: float = 1.0) -> None:
        self.loss, self.dice, self.asked = loss, dice, 0

    def score(self, image: torch.Tensor) -> Score:
        return Score(self.dice, self.loss(image).item())

    def gradient(self, image: torch.Tensor, weighting: Weighting, progress: float) -> Answer:
        self.asked += 1
        leaf = image.clone().requires_grad_()
        (found,) = torch.autograd.grad(self.loss(leaf), leaf)
        return Answer(self.score(image), found)


def attack(
    name: str, victim: Victim, image: torch.Tensor, budget: Budget, steps: int, drawn: torch.Generator
) -> torch.Tensor:
    """Of raw images, by the table's row."""
    row = perturbation(f"{name}_{budget.norm}")
    return perturb(image, row, budget.radius, drawn, extra=against(victim, steps))


def random_control(image: torch.Tensor, budget: Budget, drawn: torch.Generator) -> torch.Tensor:
    return perturb(image, perturbation(f"random_{budget.norm}"), budget.radius, drawn)


def scaled(image: torch.Tensor) -> torch.Tensor:
    """In units of the robust range."""
    low, high = (bound.view(-1, 1, 1, 1) for bound in robust_range(image))
    return (image - low) / torch.where(high > low, high - low, 1)


def change_of(image: torch.Tensor, attacked: torch.Tensor) -> torch.Tensor:
    """In shares of the robust range, of the channels that have one."""
    low, high = robust_range(image)
    return ((attacked - image) / (high - low).view(-1, 1, 1, 1))[:2]


def size(change: torch.Tensor, norm: str) -> float:
    return float(change.abs().max() if norm == "linf" else change.double().square().mean().sqrt())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.01, 0.3])
@pytest.mark.parametrize("name", [*ATTACKS, "control"])
def test_never_outside_of_the_budget(name: str, radius: float, norm: str) -> None:
    image = raw_image(3, 16, 15).float()
    victim = Function(lambda x: (x * torch.linspace(-1, 1, x.numel()).view(x.shape)).sin().sum())
    budget = Budget(radius, norm)
    if name == "control":
        attacked = random_control(image, budget, generator())
    else:
        attacked = attack(name, victim, image, budget, 7, generator())
    assert attacked.shape == image.shape and attacked.dtype == image.dtype
    assert torch.equal(image, raw_image(3, 16, 15).float())
    assert torch.equal(attacked[2], image[2])
    found = size(change_of(image, attacked), norm)
    assert 0.5 * radius < found <= radius * (1 + 1e-4)
    for clean, changed in zip(image, attacked, strict=True):
        assert clean.min() <= changed.min() and changed.max() <= clean.max()


@pytest.mark.parametrize("norm", NORMS)
def test_of_a_linear_loss_the_worst_is_found(norm: str) -> None:
    # within the budget the worst is known: the corner, or along the gradient; wide extremes, so that nothing is clipped
    image = raw_image(3, 16, 15).float()
    image[:2, 0, 0, 0], image[:2, 0, 0, 1] = -1e5, 1e5
    low, high = robust_range(image)
    slope = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)) / (high - low).view(-1, 1, 1, 1).clamp(
        1
    )
    slope[:, 0, 0, :2] = 0
    of_change = slope[:2] * (high - low)[:2].view(-1, 1, 1, 1)
    best = of_change.sign() if norm == "linf" else of_change / of_change.square().mean().sqrt()
    victim = Function(lambda x: (slope * x).sum(dtype=torch.float64))
    for name in ATTACKS:
        found = change_of(image, attack(name, victim, image, Budget(0.05, norm), 30, generator()))
        reached = float((found * of_change).sum() / (0.05 * best * of_change).sum())
        assert reached > (0.9999 if name in ("fgsm", "worst_case") or norm == "linf" else 0.99), name
        if name == "fgsm":
            torch.testing.assert_close(found, 0.05 * best, rtol=1e-3, atol=1e-4)


def test_size_of_l2_does_not_depend_on_the_image_s() -> None:
    for shape in ((1, 8, 8), (4, 32, 32)):
        image = raw_image(*shape).float()
        image[:2, 0, 0, 0], image[:2, 0, 0, 1] = -1e5, 1e5
        for norm in NORMS:
            found = change_of(image, random_control(image, Budget(0.01, norm), generator()))
            assert size(found, "l2") == pytest.approx(0.01, rel=0.02)


def test_the_control_is_scaled_by_the_radius_alone() -> None:
    image = raw_image(2, 8, 8).float()
    for norm in NORMS:
        small, large = (Ball(scaled(image), Budget(r, norm)).control(generator()) for r in (0.001, 0.002))
        free = (large - 2 * small).abs() < 1e-6
        assert free.float().mean() > 0.9  # the others are clipped


@pytest.mark.parametrize("name", ["pgd", "cospgd", "worst_case"])
@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_are_never_weaker(name: str, norm: str) -> None:
    image = raw_image(2, 8, 8).float()
    frequencies = torch.linspace(0.1, 3, image.numel()).view(image.shape)
    victim = Function(lambda x: (x * frequencies).sin().sum() + (x.flatten() @ x.flatten().flip(0) / 1e4).sin())
    losses = []
    for steps in (1, 2, 5, 10, 13, 25, 40):
        attacked = attack(name, victim, image, Budget(0.1, norm), steps, generator())
        losses.append(victim.score(attacked).loss)
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


def test_the_worst_case_is_no_weaker_than_the_control_whatever_the_gradient_says() -> None:
    image = raw_image(2, 8, 8).float()

    class Liar(Function):
        def gradient(self, image: torch.Tensor, weighting: Weighting, progress: float) -> Answer:
            answer = super().gradient(image, weighting, progress)
            return Answer(answer.score, -answer.gradient)

    for norm in NORMS:
        budget = Budget(0.05, norm)
        control = random_control(image, budget, generator())
        victim = Liar(lambda x: -(x - control).square().sum())  # noqa: B023
        attacked = attack("worst_case", victim, image, budget, 5, generator())
        assert torch.equal(attacked, control)


@pytest.mark.parametrize("norm", NORMS)
def test_many_steps_by_hand_on_a_smooth_function(norm: str) -> None:
    image = raw_image(2, 8, 8).float()
    low, high = (bound.view(-1, 1, 1, 1) for bound in robust_range(image))
    span, limits = (high - low)[:2], [(c.min(), c.max()) for c in image]
    frequencies = torch.linspace(1, 12, image.numel()).view(image.shape) / (high - low).clamp(1)
    victim = Function(lambda x: (x * frequencies).sin().sum())
    ball, radius, losses, change = Ball(scaled(image), Budget(0.1, norm)), 0.1, [], None
    for _ in range(9):
        if change is None:
            change = ball.start(generator())[:2]
        else:
            slope = frequencies[:2] * ((image[:2] + change * span) * frequencies[:2]).cos() * span
            change = change + radius / 4 * (slope.sign() if norm == "linf" else slope / slope.square().mean().sqrt())
            if norm == "linf":
                change = change.clamp(-radius, radius)
            else:
                change = change * min(1.0, radius / change.square().mean().sqrt().item())
            moved = [(c + d * s).clamp(*limit) for c, d, s, limit in zip(image, change, span, limits, strict=False)]
            change = (torch.stack(moved) - image[:2]) / span
        losses.append(victim.loss(torch.cat([image[:2] + change * span, image[2:]])).item())
    attacked = attack("pgd", victim, image, Budget(radius, norm), 8, generator())
    assert victim.score(attacked).loss == pytest.approx(max(losses), rel=1e-3)
    assert max(losses) > losses[0] + 1


def test_auto_pgd_halves_its_steps_and_converges() -> None:
    # a parabola whose top is inside of the ball: fixed steps of a quarter of the radius jump over it
    image = raw_image(2, 8, 8).float()
    top = Ball(scaled(image), Budget(0.03)).start(generator(7))
    budget = Budget(0.2)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return -(change_of(image, x) - top[:2]).square().mean()

    reached = {
        name: loss(attack(name, Function(loss), image, budget, 70, generator())).item()
        for name in ("pgd", "worst_case")
    }
    assert reached["worst_case"] > -1e-6
    assert reached["worst_case"] > 50 * reached["pgd"] / 1000 > reached["pgd"]


def test_the_lowest_dice_wins_over_the_highest_loss() -> None:
    image = raw_image(2, 8, 8).float()
    victim = Function(lambda x: x[:2].sum())
    dices = iter(np.linspace(0.1, 1, 100))

    def score(_: torch.Tensor) -> Score:
        return Score(next(dices), victim.loss(_).item())

    victim.score = score  # type: ignore[method-assign]
    attacked = attack("pgd", victim, image, Budget(0.1), 5, generator())
    ball = Ball(scaled(image), Budget(0.1))
    start = ball.start(generator())[:2]
    torch.testing.assert_close(change_of(image, attacked), start, rtol=0, atol=1e-5)


def test_a_gradient_of_nothing_changes_nothing() -> None:
    image = raw_image(2, 8, 8).float()
    for norm in NORMS:
        assert torch.equal(
            attack("fgsm", Function(lambda x: (x * 0).sum()), image, Budget(0.1, norm), 1, generator()), image
        )


def test_no_budget_is_the_image() -> None:
    image = raw_image(2, 8, 8).float()
    for name in ATTACKS:
        victim = Function(lambda x: x.sum())
        assert torch.equal(attack(name, victim, image, Budget(0.0), 3, generator()), image)
        assert victim.asked == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "pdg"}, r"There is no attack 'pdg'. Did you mean 'pgd'\? Choose from: fgsm, pgd"),
        ({"steps": 0}, "at least one step, got 0"),
        ({"radius": -0.1}, "finite and >= 0, got -0.1"),
        ({"radius": float("nan")}, "got nan"),
        ({"norm": "l1"}, "no norm 'l1' for attacks: take linf or l2"),
    ],
)
def test_bad_input_is_one_line(arguments: dict[str, Any], message: str) -> None:
    given = {"name": "pgd", "steps": 3, "radius": 0.1, "norm": "linf", **arguments}
    with pytest.raises(UserError, match=message) as caught:
        budget = Budget(given["radius"], given["norm"])
        victim = Function(torch.sum)
        attack_scaled(given["name"], victim, raw_image(1, 4, 4).float(), budget, given["steps"], generator())
    assert "\n" not in str(caught.value)


# On trained networks


def attacked_case(model: Model, dataset: str, number: int = 0) -> tuple[torch.Tensor, ModelVictim, LoadedCase]:
    ending = model.predictor.dataset_json["file_ending"]
    loaded = model.read(cases_of_dataset(dataset, "0", ending, model.channels)[number])
    window = WindowGradient(SlidingWindow.from_predictor(model.predictor))
    return torch.from_numpy(loaded.image), ModelVictim(model, window, loaded.label, loaded.properties), loaded


@pytest.fixture(scope="module")
def texture(textures: str, texture_models: tuple[str, str]) -> tuple[torch.Tensor, ModelVictim, LoadedCase]:
    return attacked_case(load(textures, texture_models[0], "2d", mirroring=False), textures)


Texture = tuple[torch.Tensor, ModelVictim, LoadedCase]


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_on_a_trained_network(texture: Texture, norm: str) -> None:
    image, victim, _ = texture
    clean = victim.score(image)
    assert clean.dice > 0.3
    budget = Budget(0.05, norm)
    control = victim.score(random_control(image, budget, generator()))
    found = {name: victim.score(attack(name, victim, image, budget, 4, generator())) for name in ATTACKS}
    for name, score in found.items():
        assert score.loss > control.loss, name
        assert score.dice < control.dice, name
    for weaker in (control, found["pgd"], found["cospgd"]):
        assert not weaker.worse_than(found["worst_case"])
    assert found["worst_case"].dice < found["fgsm"].dice


def test_a_budget_without_bounds_leaves_no_dice(texture: Texture) -> None:
    image, victim, _ = texture
    for norm in NORMS:
        attacked = attack("pgd", victim, image, Budget(1.0, norm), 20, generator())
        assert victim.score(attacked).dice < 0.02


def test_the_same_seed_gives_the_same_bits(texture: Texture) -> None:
    image, victim, _ = texture
    for name in ("fgsm", "segpgd", "worst_case"):
        one, again, other = (attack(name, victim, image, Budget(0.05), 1, generator(seed)) for seed in (0, 0, 1))
        assert torch.equal(one, again)
        assert torch.equal(one, other) == (name == "fgsm")


def test_the_score_is_that_of_the_prediction(texture: Texture, textures: str, texture_models: tuple[str, str]) -> None:
    image, victim, loaded = texture
    model = load(textures, texture_models[0], "2d", mirroring=False)
    data, properties = model.preprocess(loaded.image, loaded.properties)
    labels = model.export(SlidingWindow.from_predictor(model.predictor).logits(data), properties)
    found, wanted = labels == 1, loaded.label == 1
    assert victim.score(image).dice == pytest.approx(
        2 * (found & wanted).sum() / (found.sum() + wanted.sum()), abs=2e-3
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_one_tile_by_hand(texture: Texture, name: str, norm: str) -> None:
    """The image is one tile: network, z-score and cross-entropy, with autograd through all of it."""
    image, victim, loaded = texture
    network = victim._window._window.networks[0]
    reference = torch.from_numpy(loaded.label).long()
    low, high = np.percentile(image.numpy(), [0.5, 99.5])
    # one step: a difference of 1e-8 in a pixel turns the gradient of such a network by 90 degrees within four
    radius, steps = 0.04, 1
    shares = (image - low) / (high - low)  # of the robust range

    def loss(x: torch.Tensor) -> torch.Tensor:
        raw = x * (high - low) + low
        z = (raw - raw.mean()) / raw.std(correction=0)
        return functional.cross_entropy(network(z), reference)

    def dice(x: torch.Tensor) -> float:
        raw = x * (high - low) + low
        found = network((raw - raw.mean()) / raw.std(correction=0)).argmax(1) == 1
        return float(2 * (found & (reference == 1)).sum() / (found.sum() + (reference == 1).sum()))

    def ahead(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        loss(x).backward()
        network.zero_grad()
        return x.grad.sign() if norm == "linf" else x.grad / x.grad.norm() * x.numel() ** 0.5

    def projected(x: torch.Tensor) -> torch.Tensor:
        change = x - shares
        if norm == "linf":
            change = change.clamp(-radius, radius)
        else:
            change = change * min(1.0, radius * change.numel() ** 0.5 / change.norm().item())
        return (shares + change).clamp(shares.min(), shares.max())

    if name == "fgsm":
        wanted = projected(shares + radius * ahead(shares))
    else:
        drawn = generator()
        if norm == "linf":
            x = projected(shares + (2 * torch.rand(image.shape, generator=drawn) - 1) * radius)
        else:
            noise = torch.randn(image.shape, generator=drawn)
            x = projected(shares + noise / noise.norm() * noise.numel() ** 0.5 * radius)
        visited = [x]
        for _ in range(steps):
            visited.append(projected(visited[-1] + radius / 4 * ahead(visited[-1])))
        wanted = min(visited, key=dice)
    attacked = attack(name, victim, image, Budget(radius, norm), steps, generator())
    found = (attacked - image) / (high - low)
    apart = (found - (wanted - shares)).abs()
    # signs of gradients near 0 depend on the processor's order of sums: a few pixels, and so the loss a little
    assert (apart > 0.02 * radius).float().mean() < 0.01
    assert victim.score(attacked).loss == pytest.approx(loss((attacked - low) / (high - low)).item(), rel=1e-4)
    clean = loss(shares).item()
    assert victim.score(attacked).loss - clean == pytest.approx(loss(wanted).item() - clean, rel=0.05)


@pytest.mark.slow
def test_regions_and_an_ignore_label(regions: str) -> None:
    trainer = "nnUNetTrainer_bs2_1epochs_6iters_seed1"
    train(regions, "2d", trainer, validate=False)
    image, victim, _ = attacked_case(load(regions, trainer, "2d", mirroring=False), regions)
    control = victim.score(random_control(image, Budget(0.1), generator()))
    for name in ATTACKS:
        score = victim.score(attack(name, victim, image, Budget(0.1), 3, generator()))
        assert score.loss > control.loss
        assert score.dice <= control.dice


def test_a_volume_of_several_tiles_that_is_resampled(volumes: str, volume_model: str) -> None:
    model = load(volumes, volume_model, "3d_fullres", mirroring=False)
    image, _, loaded = attacked_case(model, volumes)
    part = (slice(1, 13), slice(6, 36), slice(8, 38))
    image, properties = image[(slice(None), *part)], {**loaded.properties, "spacing": (3.0, 1.2, 1.2)}
    window = WindowGradient(SlidingWindow.from_predictor(model.predictor))
    victim = ModelVictim(model, window, loaded.label[part], properties)
    control = victim.score(random_control(image, Budget(0.1), generator()))
    score = victim.score(attack("fgsm", victim, image, Budget(0.1), 1, generator()))
    assert score.loss > 1.02 * control.loss
