"""A sweep's attacked images: made one at a time, and kept for a while, as several models may get the same one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch

from nnunet_robust.eval.attacks.gradient import WindowGradient
from nnunet_robust.eval.attacks.model_victim import ModelVictim
from nnunet_robust.eval.attacks.rows import against, perturbation
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.eval.results.tables import Condition
from nnunet_robust.eval.sweep.scene import Scene

_VALUES_KEPT = 1 << 26


class Attacker:
    """Attacks models, each on its device. For the thread in which the networks predict, not beside them: cuDNN has one
    setting for all threads, and an attack needs another one.

    Args:
        models: those that are attacked.
        steps: of each attack, >= 1.
        seed: of the perturbations.
    """

    def __init__(self, models: Iterable[Model], steps: int, seed: int) -> None:
        self._models = {model.key: model for model in models}
        self._steps, self._seed = steps, seed
        self._windows: dict[str, WindowGradient] = {}
        self._kept: OrderedDict[tuple[str, str, str, float, int], torch.Tensor] = OrderedDict()

    def image(self, scene: Scene, condition: Condition, model: Model) -> torch.Tensor:
        """Make a case's image under an attack on a model.

        Args:
            scene: the case.
            condition: an attack; its `source`, where it has one, is not looked at.
            model: the one that is attacked, of `models`.

        Returns:
            float32 (C, *spatial), raw, on the scene's device; not to be modified.

        Raises:
            UserError: the model's preprocessing is not one that gradients are known of, all of the reference is to be
                ignored, or a tile with its gradient does not fit into memory.
        """
        attack = perturbation(condition.perturbation).attack
        key = scene.files.name, model.key, attack, condition.level, condition.replicate
        if key not in self._kept:
            victim = ModelVictim(model, self._window(model.key), scene.label, scene.properties)
            extra, device = against(victim, self._steps), model.predictor.device
            self._kept[key] = scene.image(condition, self._seed, as_it_is=False, extra=extra, made_on=device)
            while len(self._kept) > 1 and sum(map(torch.numel, self._kept.values())) > _VALUES_KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _window(self, key: str) -> WindowGradient:
        """A window of its own, see `WindowGradient`, and in full precision whatever the sweep predicts with."""
        if key not in self._windows:
            self._windows[key] = WindowGradient(SlidingWindow.from_predictor(self._models[key].predictor))
        return self._windows[key]
