"""How often quality assurance speaks of ordinary images: what was counted, and its words. `deployment.qa` counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import scipy  # whose parts are loaded when they are used: a sweep does not wait for them

METHOD = "leave-one-patient-out"


@dataclass(frozen=True)
class FalseAlarms:
    """What `qa` would say of the calibration's own cases, each judged by the other patients' alone.

    Attributes:
        n_cases: that were judged.
        n_patients: of these.
        n_flagged: cases that were not accepted.
        n_rejected: of these, cases that were rejected.
        reasons: what spoke against a case -> in how many.
        dice_flagged: median over flagged cases of the lowest Dice of a structure; None: none was flagged.
        dice_accepted: of the others; None likewise.
        remade: whether masks and intervals were calibrated anew without the patient; with the fewest patients that a
            calibration may have they cannot be.
    """

    n_cases: int
    n_patients: int
    n_flagged: int
    n_rejected: int
    reasons: dict[str, int]
    dice_flagged: float | None
    dice_accepted: float | None
    remade: bool = True

    @property
    def rate(self) -> float:
        """The share of cases that were flagged, in [0, 1]."""
        return self.n_flagged / self.n_cases

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper & Pearson's 95 % interval of the rate, for as many patients."""
        held, n = self.rate * self.n_patients, self.n_patients
        low = float(scipy.stats.beta.ppf(0.025, held, n - held + 1)) if held > 0 else 0.0
        high = float(scipy.stats.beta.ppf(0.975, held + 1, n - held)) if held < n else 1.0
        return low, high

    def sentence(self) -> str:
        """Write what was counted, and what it means."""
        low, high = self.interval
        why = ", ".join(f"{name} {n}" for name, n in sorted(self.reasons.items(), key=lambda item: (-item[1], item[0])))
        said = (
            f"False alarms: of these {self.n_cases} cases, qa would flag {self.n_flagged} ({100 * self.rate:.3g} %, "
            f"95 % interval {100 * low:.2g} to {100 * high:.2g} %), {self.n_rejected} of them to reject"
            + (f" ({why})" if why else "")
            + f". Each was judged without its own patient ({METHOD}), by the default limits. About so often "
            "qa will speak of new images of this source."
        )
        if self.dice_flagged is not None and self.dice_accepted is not None:
            worse = ", so that not each alarm is for nothing" if self.dice_flagged < self.dice_accepted else ""
            said += (
                f" The lowest Dice of a structure is {self.dice_flagged:.2f} in flagged cases and "
                f"{self.dice_accepted:.2f} in the others (medians){worse}."
            )
        if not self.remade:
            said += " Masks and intervals were those of all patients, as fewer are too few to calibrate on."
        return said

    def to_json(self) -> dict[str, Any]:
        """Turn it into what JSON can hold; what follows from it is there to be read."""
        low, high = self.interval
        counted = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"method": METHOD, **counted, "rate": self.rate, "low": low, "high": high, "in_words": self.sentence()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> FalseAlarms:
        """Restore it.

        Raises:
            ValueError, KeyError, TypeError: it was none.
        """
        counted = {name: found[name] for name in cls.__dataclass_fields__}
        made = cls(**counted)
        if not 0 <= made.n_rejected <= made.n_flagged <= made.n_cases or not 0 < made.n_patients <= made.n_cases:
            raise ValueError("counts of false alarms that are none")
        return made
