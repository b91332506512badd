"""What all units of a run share, and what of a unit is not done yet, by the files of the output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_robust.eval.attacks.rows import perturbation
from nnunet_robust.eval.inference.ensembles import Ensemble
from nnunet_robust.eval.inference.models import Model
from nnunet_robust.eval.results.failures import Failure
from nnunet_robust.eval.results.parts import Part, open_part
from nnunet_robust.eval.results.tables import ATTACKS, INPUTS, TABLES, Condition, ResultTable, When
from nnunet_robust.eval.sweep.arms import Arm, networks_of
from nnunet_robust.eval.sweep.attacker import Attacker
from nnunet_robust.eval.sweep.plan import SweepPlan
from nnunet_robust.eval.sweep.units import Unit

MAPS = ("entropy", "mutual_information")
"""Names of the maps of uncertainty, attributes of `Uncertainty`."""


@dataclass(frozen=True)
class Run:
    """What is the same for all units of a run.

    Attributes:
        plan: of the sweep.
        attacker: makes attacked images.
        shown: cases that the report shows; may grow while the sweep runs.
    """

    plan: SweepPlan
    attacker: Attacker
    shown: set[str] = field(default_factory=set)

    @property
    def output(self) -> Path:
        """The folder of the results."""
        return self.plan.parameters.output

    def part(self, table: ResultTable, key: str, unit: Unit) -> Part:
        """Open the rows of a table of a unit; with a key, those of an arm."""
        return open_part(table, self.output, key, unit.perturbation, unit.case)

    def told_apart(self, arm: Arm) -> bool:
        """Tell whether an arm's members are told apart."""
        return bool(self.plan.members_by) or isinstance(arm, Ensemble)

    def stores(self, table: ResultTable, arm: Arm, unit: Unit) -> bool:
        """Tell whether a table has rows of a unit for an arm."""
        return {
            When.ALWAYS: True,
            When.SHARED_IMAGE: not self.white_box(unit),
            When.OWN_IMAGE: self.white_box(unit),
            When.MEMBERS: self.told_apart(arm),
            When.CALIBRATED: arm.key in self.plan.guarantees,
        }[table.when]

    def white_box(self, unit: Unit) -> bool:
        """Tell whether every model has images of its own in a unit: attacks on itself."""
        return not unit.as_it_is and perturbation(unit.perturbation).white_box

    def attacked(self, unit: Unit, condition: Condition, arms: Sequence[Arm]) -> Model | None:
        """Find the model that a condition attacks, for arms that get the same image; None: it is no attack."""
        if unit.as_it_is:
            return None
        row = perturbation(condition.perturbation)
        if not row.uses_victim:
            return None
        if row.source:
            return self.plan.sources[row.source]
        (model,) = networks_of(arms)  # ensembles are refused before it comes to this
        return model

    def prediction_file(self, key: str, case: str, condition: Condition) -> Path:
        """Name the file of a segmentation."""
        ending = self.plan.models[0].predictor.dataset_json["file_ending"]
        return self.output / "predictions" / key / condition.name / f"{case}{ending}"

    def map_file(self, key: str, case: str, condition: Condition, name: str) -> Path:
        """Name the file of a map of uncertainty."""
        return self.output / "maps" / key / condition.name / f"{case}_{name}.nii.gz"

    def picture(self, case: str, *names: str) -> Path:
        """Name the file of a picture."""
        return self.output.joinpath("pictures", case, *names)

    def own_picture(self, case: str, key: str, condition: Condition) -> Path:
        """Name the picture of a model's own image, under a condition that is an attack on it."""
        return self.picture(case, key, f"{condition.name}_image.png")

    def pictured(self, case: str, condition: Condition) -> bool:
        """Tell whether there are pictures of a condition."""
        return case in self.shown and condition.replicate == 0

    def files(self, arm: Arm, unit: Unit, condition: Condition) -> list[Path]:
        """List the files that a finished prediction has beside its rows."""
        files = []
        if self.plan.parameters.save_predictions:
            files.append(self.prediction_file(arm.key, unit.case, condition))
        if self.plan.parameters.save_uncertainty and self.told_apart(arm):
            files += [self.map_file(arm.key, unit.case, condition, name) for name in MAPS]
        if self.pictured(unit.case, condition):
            name = condition.name + ".png"
            own = self.own_picture(unit.case, arm.key, condition)
            image = own if self.white_box(unit) else self.picture(unit.case, name)
            files += [image, self.picture(unit.case, arm.key, name)]
        return files


@dataclass(eq=False)
class Work:
    """A unit, and what of it is not done.

    Attributes:
        unit: which.
        parts: name of a table, key of the arm (empty for a table without arms) -> the unit's rows.
        white_box: whether every model has images of its own.
        todo: condition -> the arms that lack it.
        left: predictions that are neither made nor failed.
        failures: what failed.
        lost: another process has taken it over.
    """

    unit: Unit
    parts: Mapping[tuple[str, str], Part]
    white_box: bool
    todo: Mapping[Condition, list[Arm]] = field(default_factory=dict)
    left: int = 0
    failures: list[Failure] = field(default_factory=list)
    lost: bool = False

    def part(self, table: ResultTable, arm: Arm) -> Part | None:
        """Find the rows of a table that hold for an arm; None where there are none."""
        return self.parts.get((table.name, arm.key if table.per_arm else ""))

    def measured(self, arm: Arm) -> Part:
        """Find the rows of what was measured of an arm's images."""
        part = self.part(ATTACKS if self.white_box else INPUTS, arm)
        assert part is not None
        return part


def work_on(run: Run, unit: Unit) -> Work:
    """Find what is to be done of a unit, by the files."""
    arms = run.plan.arms
    stored = dict.fromkeys(
        (table, arm.key if table.per_arm else "") for arm in arms for table in TABLES if run.stores(table, arm, unit)
    )
    parts = {(table.name, key): run.part(table, key, unit) for table, key in stored}
    work = Work(unit, parts, run.white_box(unit))

    def finished(arm: Arm, condition: Condition) -> bool:
        of_arm = [part for table in TABLES if (part := work.part(table, arm)) is not None]
        return all(condition in part.rows for part in of_arm) and all(
            file.is_file() for file in run.files(arm, unit, condition)
        )

    work.todo = {c: lacking for c, _ in unit.images if (lacking := [arm for arm in arms if not finished(arm, c)])}
    work.left = sum(map(len, work.todo.values()))
    return work
