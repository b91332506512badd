"""A sequential test: have images that come one by one changed since the reference? Conformal martingales.

    test = DriftTest(names, reference, rate=0.01)
    test.update(monday)
    test.update(tuesday)
    test.alarm, test.moved()

For each feature a player bets on where the next image will stand among all images before it, reference and stream. As
long as all of them could as well have come in any other order (they are *exchangeable*), that place is uniform and
independent of the places before, and the player's money is a martingale: it starts at 1, and reaches k / rate with
probability at most `rate` / k, however long the stream is (Ville's inequality). So of k players none ever does with
probability at least 1 - `rate`, whatever ties the features to each other. Money is kept as its natural logarithm, the
*evidence*.

(The mean of the players' money would see changes of many features somewhat sooner. But it need not be a martingale:
each player's money is one as long as only that feature's places are known, and the others' may tell of the next one.)

What that guarantees, and what not:

- Of all references and streams together at most the share `rate` ever sees a false alarm. For one reference, once
  drawn, the probability is another: lower for most, higher for some; above c times `rate` for at most one reference in
  c (Markov's inequality). Simulated, at a rate of 1 %, with references of 20 images and streams of 250, one feature:
  1.0 % over all, 0 for the median reference, 36 % for the worst of 100 (benchmarks/drift_simulation.py).
- Images of one patient are not exchangeable with those of others: one image for each patient.
- New images are compared with the earlier ones of the stream, too. They have to be: places among the reference alone
  would depend on each other, through it, and the longer a stream, the more false alarms (simulated, at a rate of 1 %,
  with references of 20 images and streams of 500, one feature: 31 %). The price is that a change that is not found
  soon becomes usual, and that of slow changes little is seen: `two_sample` compares a batch with the reference alone.

References: Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World"; Vovk et al., "Retrain or not retrain:
conformal test martingales for change-point detection", COPA 2021 (the simple jumper); Choe & Ramdas, "Combining
evidence across filtrations", arXiv 2402.09698 (why not the mean).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.deployment.drift.features import ordered

BETS: dict[str, tuple[float, float]] = {
    "as before": (1.0, 1.0),
    "somewhat higher": (2.0, 1.0),
    "somewhat lower": (1.0, 2.0),
    "higher": (3.0, 1.0),
    "lower": (1.0, 3.0),
    "far higher": (1.0, 0.25),
    "far lower": (0.25, 1.0),
    "wider": (0.5, 0.5),
    "narrower": (3.0, 3.0),
}
"""What is bet on: the place of the next image has a beta density with these parameters, which is the payoff."""

JUMP = 0.01
"""The share of a player's money that is dealt out anew, to all bets alike, before each image."""

_EDGE = 1e-12  # no place is nearer to 0 or 1, where densities are infinite
_PARAMETERS = np.array([*BETS.values()])


@dataclass(frozen=True)
class Moved:
    """A feature that has moved.

    Attributes:
        name: of the feature.
        image: which of the stream's images, from 0, has made it known.
        bet: a key of `BETS`, other than "as before", on which most of its player's money lay then.
        evidence: the most that this player ever had.
    """

    name: str
    image: int
    bet: str
    evidence: float


class DriftTest:
    """The test over all images so far. The same images in the same order give the same numbers, in pieces or at once.

    Args:
        names: of the features.
        reference: (images, features), one image for each patient; NaN: not defined (see `ordered`).
        rate: of false alarms over a whole stream, in (0, 1).
        seed: of the draws that order equal values.
        measured: bool (images, features), False where an image of the reference does not count for a feature; None:
            all do.

    Attributes:
        names: of the features.
        rate: as given.
        evidence: (stream's images, features), after each image.

    Raises:
        UserError: another shape, no features, no images, or a rate that is none.
    """

    def __init__(
        self,
        names: Sequence[str],
        reference: ArrayLike,
        rate: float = 0.01,
        seed: int = 0,
        measured: ArrayLike | None = None,
    ) -> None:
        if not 0 < rate < 1:
            raise UserError(f"the rate of false alarms must be between 0 and 1, got {rate}")
        self.names, self.rate, self._seed = tuple(names), rate, seed
        rows = self._rows(reference)
        counts = np.ones(rows.shape, bool) if measured is None else np.asarray(measured, bool)
        if not names or counts.shape != rows.shape or not counts.any(axis=0).all():
            raise UserError("the reference is empty: every feature needs at least one image of it")
        self._seen = [sorted(column[counted].tolist()) for column, counted in zip(rows.T, counts.T, strict=True)]
        self._wealth = np.full((len(self.names), len(BETS)), 1 / len(BETS))
        self._bets: NDArray[np.int8] = np.zeros((0, len(self.names)), np.int8)
        self.evidence: NDArray[np.float64] = np.zeros((0, len(self.names)))

    def __len__(self) -> int:
        return len(self.evidence)

    def update(self, rows: ArrayLike) -> None:
        """Take the stream's next images, in the order in which they came.

        Args:
            rows: (images, features), one image for each patient that was not seen before; NaN: not defined.

        Raises:
            UserError: another number of features.
        """
        new = self._rows(rows)
        found, bets = np.empty(new.shape), np.empty(new.shape, np.int8)
        before = self.evidence[-1] if len(self) else np.zeros(len(self.names))
        for number, values in enumerate(new.tolist()):
            draws = numpy_generator("drift", self._seed, len(self) + number).random(len(self.names))
            gain, self._wealth = jump(self._wealth, payoffs(places(self._seen, values, draws)), JUMP)
            for seen, value in zip(self._seen, values, strict=True):
                insort(seen, value)
            found[number] = before = before + gain
            bets[number] = 1 + self._wealth[:, 1:].argmax(axis=1)
        self.evidence = np.concatenate([self.evidence, found])
        self._bets = np.concatenate([self._bets, bets])

    @property
    def limit(self) -> float:
        """The evidence at which a feature is known to have moved: the logarithm of features / rate."""
        return math.log(len(self.names) / self.rate)

    @property
    def alarm(self) -> int | None:
        """The index of the stream's image that has set off the alarm; None: there was none. Once set off, it stays."""
        over = np.flatnonzero((self.evidence >= self.limit).any(axis=1))
        return int(over[0]) if len(over) else None

    def moved(self) -> tuple[Moved, ...]:
        """List the features known to have moved, in the order in which that became known; none without an alarm.

        That one of those that have not moved is ever named has a probability of at most `rate` over the whole stream,
        whatever the others do.
        """
        over = self.evidence >= self.limit
        bets = [*BETS]
        found = []
        for index in np.flatnonzero(over.any(axis=0)):
            image = int(over[:, index].argmax())
            highest = float(self.evidence[:, index].max())
            found.append(Moved(self.names[index], image, bets[self._bets[image, index]], highest))
        return tuple(sorted(found, key=lambda moved: moved.image))

    def _rows(self, rows: ArrayLike) -> NDArray[np.float64]:
        array = ordered(np.asarray(rows, dtype=np.float64))
        if array.ndim != 2 or array.shape[1] != len(self.names):
            raise UserError(f"rows of {len(self.names)} features expected, got an array of shape {array.shape}")
        return array


def places(earlier: Sequence[list[float]], now: Sequence[float], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute conformal p-values, places among earlier images: (lower + draw * (equal + 1)) / (earlier + 1).

    Args:
        earlier: for each feature the values of earlier images, in ascending order; not NaN.
        now: for each feature its value; not NaN.
        draws: (features,), uniform in [0, 1), which order equal values.

    Returns:
        (features,), in (0, 1): 0 is lower than all, 1 higher. Uniform, and independent of the places of the earlier
        images, where all are exchangeable.
    """
    lower = np.array([bisect_left(seen, value) for seen, value in zip(earlier, now, strict=True)])
    not_higher = np.array([bisect_right(seen, value) for seen, value in zip(earlier, now, strict=True)])
    counted = np.array([len(seen) for seen in earlier])
    return np.clip((lower + draws * (not_higher - lower + 1)) / (counted + 1), _EDGE, 1 - _EDGE)


def payoffs(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute what each of `BETS` pays for one: (features,) in (0, 1) -> (features, bets), >= 0, 1 on average."""
    a, b = _PARAMETERS.T
    where = place[:, None]
    return np.exp((a - 1) * np.log(where) + (b - 1) * np.log1p(-where) - betaln(a, b))


def jump(
    wealth: NDArray[np.float64], paid: NDArray[np.float64], share: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Make a step of the simple jumper.

    Args:
        wealth: (features, bets), how each player's money is spread, with a sum of 1.
        paid: (features, bets), what each bet pays.
        share: of the money, dealt out anew before the bets.

    Returns:
        The logarithm of what each player's money is multiplied by (features,), and how it is spread then.

    Reference: Vovk et al. 2021, algorithm 1.
    """
    after = ((1 - share) * wealth + share / wealth.shape[1]) * paid
    total = after.sum(axis=1)
    return np.log(total), after / total[:, None]
