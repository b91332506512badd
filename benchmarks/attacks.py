"""What attacks cost beside a plain prediction, and whether their gradients lead anywhere.

    python benchmarks/attacks.py cost MODEL_FOLDER IMAGES LABELS [--cases 2] [--level 0.02] [--steps 20] [--mirroring]
        [--only pgd_linf ...]
    python benchmarks/attacks.py steps MODEL_FOLDER IMAGES LABELS [--cases 4] [--level 0.02]

`cost`: seconds of each attack on one image, seconds of all CPUs together (which other jobs on the machine change
little), and seconds in predictions of the same model (preprocessing and sliding window alone, timed in the same run, in
turns). `steps`: mean Dice of the attacked image over numbers of steps, beside random
noise of the same budget and the clean image, and with the whole robust range as budget, where nothing may be left.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch

from nnunet_robust.common.seeding import torch_generator
from nnunet_robust.eval.attacks.attack import ATTACKS
from nnunet_robust.eval.attacks.budget import NORMS
from nnunet_robust.eval.attacks.gradient import WindowGradient
from nnunet_robust.eval.attacks.losses import plain
from nnunet_robust.eval.attacks.model_victim import ModelVictim
from nnunet_robust.eval.attacks.rows import against, perturbation
from nnunet_robust.eval.images.cases import CaseFiles, LoadedCase, cases_of_folders
from nnunet_robust.eval.inference.devices import device_of, use_nnunets_threads
from nnunet_robust.eval.inference.loading import load_model
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.perturbations import perturb


def victim_of(model: Model, window: WindowGradient, case: CaseFiles) -> tuple[torch.Tensor, ModelVictim]:
    loaded = model.read(case)
    return torch.from_numpy(loaded.image), ModelVictim(model, window, loaded.label, loaded.properties)


class Seconds(NamedTuple):
    """How long something took, by the clock and on all CPUs together."""

    wall: float
    cpu: float


def taken(run: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def cost(model: Model, cases: list[CaseFiles], level: float, steps: int, names: list[str]) -> None:
    """Print seconds for each attack."""
    window, gradient = (
        SlidingWindow.from_predictor(model.predictor),
        WindowGradient(SlidingWindow.from_predictor(model.predictor)),
    )
    seconds: dict[str, list[Seconds]] = {name: [] for name in ["prediction", *names]}
    for number, case in enumerate(cases):
        image, victim = victim_of(model, gradient, case)
        print(f"{case.name}: {tuple(image.shape)}", flush=True)
        loaded = model.read(case)
        extra = against(victim, steps)

        def predict(image: torch.Tensor = image, loaded: LoadedCase = loaded) -> None:
            window.logits(model.preprocess(image.numpy(), loaded.properties)[0]).cpu()

        if number == 0:  # choices, caches
            predict()
            victim.gradient(image, plain, 0.0)
        for name in names:
            row = perturbation(name)
            seconds["prediction"].append(taken(predict))
            seconds[name].append(taken(lambda: perturb(image, row, level, torch_generator(0), extra=extra).cpu()))  # noqa: B023
    one = statistics.median(found.wall for found in seconds["prediction"])
    print(f"{model.trainer}, {level:g}, {steps} steps, {len(cases)} cases, tile {model.tile_size}")
    for name, found in seconds.items():
        wall, cpu = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"  {name:16} {wall:8.2f} s  {cpu:8.2f} CPU s  {wall / one:7.1f} predictions")


def by_steps(model: Model, cases: list[CaseFiles], level: float) -> None:
    """Print the mean Dice over steps."""
    gradient = WindowGradient(SlidingWindow.from_predictor(model.predictor))
    victims = [victim_of(model, gradient, case) for case in cases]

    def mean_dice(name: str, at: float, steps: int) -> float:
        row = perturbation(name)
        found = [
            victim.score(perturb(image, row, at, torch_generator(0), extra=against(victim, steps))).dice
            for image, victim in victims
        ]
        return statistics.mean(found)

    print(f"{model.trainer}, {len(cases)} cases; clean {mean_dice('random_linf', 0.0, 1):.3f}")
    for norm in NORMS:
        print(f"{norm}: noise of {level:g}: {mean_dice(f'random_{norm}', level, 1):.3f}")
        for name in ("pgd", "segpgd", "cospgd", "worst_case"):
            values = {steps: mean_dice(f"{name}_{norm}", level, steps) for steps in (1, 5, 10, 20, 40)}
            line = "  ".join(f"{steps}: {value:.3f}" for steps, value in values.items())
            print(f"  {name:10} steps {line}   unbounded, 20: {mean_dice(f'{name}_{norm}', 1.0, 20):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "steps"])
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--level", type=float, default=0.02)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--mirroring", action="store_true")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="for cost, the attacks; all with l-infinity otherwise"
    )
    parser.add_argument("--device")
    given = parser.parse_args()
    device = device_of(given.device)
    use_nnunets_threads(device)
    model = load_model(given.model, None, "checkpoint_final.pth", device, given.mirroring, None)
    ending = model.predictor.dataset_json["file_ending"]
    cases = cases_of_folders(given.images, given.labels, ending, model.channels)[: given.cases]
    if given.what == "cost":
        names = given.only or ["random_linf", *(f"{name}_linf" for name in ATTACKS)]
        cost(model, cases, given.level, given.steps, names)
    else:
        by_steps(model, cases, given.level)


if __name__ == "__main__":
    main()
