"""How many predictions a sweep is going to make, and how long that takes: told before it begins."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from nnunet_robust.common.progress import duration
from nnunet_robust.eval.attacks.rows import perturbation
from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.results.tables import Condition
from nnunet_robust.eval.sweep.plan import SweepPlan
from nnunet_robust.eval.sweep.units import Unit

LOG = "progress.log"
"""Lines about the progress of every run into a sweep's folder. It differs from run to run, as no result does."""

_FEWEST = 10  # predictions of an earlier run that tell how long one takes
_LEVELS_TRIED = 2


@dataclass(frozen=True)
class Expected:
    """What a run is going to do.

    Attributes:
        cases: how many images as they are.
        conditions: under which they are predicted, the clean image among them.
        models: that predict, ensembles and denoised ones among them.
        predictions: of this run, with those that are there.
        left: those that are not there, without attacks.
        attacks: likewise, those of images that are attacked.
        earlier: seconds that a prediction took when this folder was last worked on; None: not known.
    """

    cases: int
    conditions: int
    models: int
    predictions: int
    left: int
    attacks: int
    earlier: float | None = None

    @property
    def to_make(self) -> int:
        """The predictions that are not there."""
        return self.left + self.attacks

    @property
    def there(self) -> int:
        """The predictions that an earlier run has made."""
        return self.predictions - self.to_make

    def counts(self) -> str:
        """Say how many there are.

        Example:
            >>> Expected(cases=20, conditions=14, models=1, predictions=280, left=160, attacks=20).counts()
            '280 predictions (20 cases, 14 conditions, 1 model): 100 are there, 180 to make'
        """
        numbers = {"case": self.cases, "condition": self.conditions, "model": self.models}
        what = ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for word, number in numbers.items())
        return f"{self.predictions} predictions ({what}): {self.there} are there, {self.to_make} to make"

    def time(self) -> str:
        """Say how long it takes, as far as that is known before anything is predicted."""
        if not self.to_make:
            return "nothing is left to predict"
        if self.earlier is None:
            return "the first ones will tell how long it takes (--dry-run tries some out)"
        seconds = self.earlier * self.to_make
        return f"about {duration(seconds)}, at {self.earlier:.3g} s each as when this folder was last worked on"


class Tried(NamedTuple):
    """What some predictions took.

    Attributes:
        seconds: of a prediction of an image that is not attacked.
        attack_seconds: of one that is; None where there are none.
        sample: which were tried, in words.
    """

    seconds: float
    attack_seconds: float | None
    sample: str

    def of(self, expected: Expected) -> float:
        """Seconds that a run takes."""
        return expected.left * self.seconds + expected.attacks * (self.attack_seconds or self.seconds)


def expected(plan: SweepPlan, left: Mapping[Unit, int]) -> Expected:
    """Count what a run is going to do.

    Args:
        plan: of the sweep.
        left: unit of this run -> predictions that it lacks.
    """
    conditions = {condition for unit in left for condition, _ in unit.images}
    attacks = sum(number for unit, number in left.items() if not unit.as_it_is and _is_attack(unit.perturbation))
    return Expected(
        cases=len({unit.case for unit in left}),
        conditions=len(conditions),
        models=len(plan.arms),
        predictions=sum(len(unit.images) for unit in left) * len(plan.arms),
        left=sum(left.values()) - attacks,
        attacks=attacks,
        earlier=_earlier(plan.parameters.output / LOG),
    )


def sample_of(plan: SweepPlan, output: Path) -> SweepPlan:
    """A small sweep whose predictions take as long as those of a plan: its middle case, of some conditions.

    Args:
        plan: of the whole sweep.
        output: an empty folder.
    """
    readable = [case for case in plan.cases.own if case.name not in plan.unreadable]
    case = sorted(readable, key=_bytes)[len(readable) // 2]
    cases = replace(plan.cases, own=[case], digests={case.name: plan.cases.digests[case.name]}, series=())
    levels: dict[str, Sequence[float]] = {}
    for attacked in (False, True):
        names = [name for name in plan.levels if _is_attack(name) is attacked and any(plan.levels[name])]
        if names:
            known = [level for level in plan.levels[names[0]] if level]
            levels[names[0]] = known[:1] if attacked else known[:_LEVELS_TRIED]
    parameters = replace(plan.parameters, output=output, shard=None, replicates=1, series=None)
    identity = replace(plan.identity, cases={case.name: plan.cases.digests[case.name]})
    return replace(plan, parameters=parameters, cases=cases, levels=levels, identity=identity, unreadable={})


class Stopwatch:
    """A sweep's progress that notes what each prediction of the sample took."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._steps: list[tuple[str, float]] = []

    def announce(self, expected: Expected) -> None:
        """Tell nobody."""

    def start(self, predictions: int) -> None:
        """Start the clock: what came before is done once, whatever the number of predictions."""
        self._last = self._last or time.monotonic()

    def step(self, case: int, cases: int, condition: str) -> None:
        """Note that a prediction is finished."""
        now = time.monotonic()
        self._steps.append((condition, now - (self._last or now)))
        self._last = now

    def tried(self, plan: SweepPlan) -> Tried:
        """Return what predictions of a sample took.

        Left out are the first clean ones, with which the networks are tried out, unless there is nothing else.
        Predictions of several conditions come together: only their mean means anything.
        """
        conditions = [Condition(name, level, 0) for name, levels in plan.levels.items() for level in levels]
        attacked = {one.name for one in conditions if _is_attack(one.perturbation)}
        steps = self._steps[len(plan.arms) :] or self._steps
        attacks = [seconds for condition, seconds in steps if condition in attacked]
        others = [seconds for condition, seconds in steps if condition not in attacked]
        names = ", ".join(condition.name for condition in conditions) or Condition.clean().name
        return Tried(
            seconds=sum(others) / max(1, len(others)),
            attack_seconds=sum(attacks) / len(attacks) if attacks else None,
            sample=f"{plan.cases.own[0].name} under {names}",
        )


def _is_attack(name: str) -> bool:
    return perturbation(name).uses_victim


def _bytes(case: CaseFiles) -> int:
    return sum(path.stat().st_size for path in case.images)


def _earlier(log: Path) -> float | None:
    """Seconds that a prediction took in the last run of which a log tells enough."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        found = re.search(r" predicting: ([0-9]+) of .*?([0-9]+):([0-9]{2}):([0-9]{2}) passed", line)
        if found and int(found[1]) >= _FEWEST:
            hours, minutes, seconds = map(int, found.group(2, 3, 4))
            return (hours * 3600 + minutes * 60 + seconds) / int(found[1])
    return None
