"""The command `nnunet-robust trainers`. Heavy imports stand inside the subcommand."""

from __future__ import annotations

from typing import Annotated

import typer

from nnunet_robust.cli.options import Commands, PlansFlags, TrustFlag, known_trainers
from nnunet_robust.common.console import show
from nnunet_robust.common.errors import UserError

training = Commands()


@training.command(rich_help_panel="Datasets and models")
def trainers(
    given: PlansFlags,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Trainers, with options.", autocompletion=known_trainers)
    ] = None,
    trust_checkpoints: TrustFlag = False,
) -> None:
    """The trainers and the grammar of their names; for names and a dataset, what they change and cost.

    Example: nnunet-robust trainers nnUNetTrainerNoSkip_ps64_st5 -d 4 -c 3d_fullres
    """
    if names and given.dataset:
        _print_costs(names, given, trust_checkpoints)
    elif names:
        raise UserError(f"the cost of {names[0]} depends on the plans: name a dataset with -d, a configuration with -c")
    elif given.dataset:
        raise UserError(
            f"no trainer named: nnunet-robust trainers NAME [NAME ...] -d {given.dataset} -c {given.configuration}"
        )
    else:
        _print_trainers()


def _print_trainers() -> None:
    from rich.table import Table

    from nnunet_robust.trainers import TRAINERS
    from nnunet_robust.trainers.names import RULE

    table = Table("trainer", "what it does", "source")
    for name, trainer in TRAINERS.items():
        table.add_row(name, trainer.summary, trainer.source)
    show(table)
    print(f"names: {RULE}")
    print("what a name changes and costs: nnunet-robust trainers NAME [NAME ...] -d DATASET -c CONFIGURATION")


def _print_costs(names: list[str], given: PlansFlags, trusted: bool) -> None:
    from rich.table import Table

    from nnunet_robust.common.folders import dataset_name, nnunet_folder
    from nnunet_robust.trainers import TRAINERS
    from nnunet_robust.trainers.cost import STANDARD, changes, format_si, read_plans, trainer_cost
    from nnunet_robust.trainers.names import parse

    assert given.dataset is not None
    configuration, plans = given.configuration, given.plans
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(given.dataset)
    plans_json, dataset_json = read_plans(folder, plans, trusted)
    lines = []
    for name in names:
        changed = changes(name, plans_json, configuration)
        lines.append(f"{name}: {TRAINERS[parse(name, TRAINERS)[0]].summary}")
        lines += [f"  {change.what} {change.standard} -> {change.changed}" for change in changed]
    rows = list(dict.fromkeys([STANDARD, *names]))
    costs = {name: trainer_cost(name, plans_json, configuration, dataset_json) for name in rows}
    standard = costs[STANDARD]
    table = Table(title=f"{folder.name}, {plans}, {configuration}")
    table.add_column("trainer", overflow="fold")
    for heading in ("parameters", "FLOPs per patch", "activations per batch"):
        table.add_column(heading, justify="right")
    for name, cost in costs.items():
        table.add_row(
            name,
            f"{format_si(cost.parameters)} ({cost.parameters / standard.parameters:.2f}x)",
            f"{format_si(cost.flops)} ({cost.flops / standard.flops:.2f}x)",
            f"{format_si(cost.activation_bytes)}B ({cost.activation_bytes / standard.activation_bytes:.2f}x)",
        )
    print(*lines, sep="\n")
    show(table)
    print(
        "FLOPs: one forward pass of one patch, two per multiplication and addition. Activations: what the forward\n"
        "pass of one training batch keeps for the backward pass, in float32 (mixed precision about halves it)."
    )
