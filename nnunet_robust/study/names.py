"""Trainers x options -> full trainer names, through the grammar of `nnunet_robust.trainers.names`."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.schemas import Key, suggestion
from nnunet_robust.study.document import Document
from nnunet_robust.trainers import TRAINERS
from nnunet_robust.trainers.names import Options, name_of, parse

# Key of the YAML -> option of the grammar; the lists are dimensions of the matrix.
_LISTS = {"patch_sizes": "patch_size", "seeds": "seed"}
MOST_TRAINERS = 10_000
_VALUES = ("stages", "batch_size", "epochs", "iterations", "augmentation", "adversarial")


def compose_trainers(document: Document) -> tuple[str, ...]:
    """All trainers of a study.yaml, with their options in the name.

    The options at the top level hold for every trainer, unless its own entry, or the name in it, says otherwise; `null`
    in an entry leaves an option out.

    Raises:
        UserError: with the line: no such trainer, a name that breaks the grammar, two that are the same, or options
            for a trainer that has none.
    """
    names: dict[str, None] = {}
    for index, entry in enumerate(document.data["trainers"]):
        key: Key = ("trainers", index)
        own = {"trainer": entry} if isinstance(entry, str) else entry
        wanted = {name: document.data.get(name) for name in (*_LISTS, *_VALUES)}
        wanted |= {name: value for name, value in own.items() if name != "trainer"}
        for name in _names(document, key, own["trainer"], wanted):
            if name in names:
                raise document.fault(key, f"the study has the trainer {name} twice")
            names[name] = None
    return tuple(names)


def _names(document: Document, key: Key, text: str, wanted: dict[str, Any]) -> Iterator[str]:
    try:
        trainer, given = parse(text, TRAINERS)
    except UserError as error:
        raise document.fault(key, str(error)) from None
    except AttributeError:
        yield _foreign(document, key, text, wanted)
        return
    fixed = {name: getattr(given, name) for name in _VALUES}
    options = Options(**{name: wanted[name] if fixed[name] is None else fixed[name] for name in _VALUES})
    dimensions = []
    for name, option in _LISTS.items():
        own = getattr(given, option)
        dimensions.append([own] if own is not None else wanted[name] or [None])
    if (count := math.prod(map(len, dimensions))) > MOST_TRAINERS:
        raise document.fault(
            key, f"its patch sizes and seeds are {count} trainers: a study has at most {MOST_TRAINERS}"
        )
    for patch, seed in itertools.product(*dimensions):
        if isinstance(patch, (int, str)):
            patch = tuple(int(n) for n in str(patch).split("x"))
        yield name_of(trainer, replace(options, patch_size=patch, seed=seed))


def _foreign(document: Document, key: Key, name: str, wanted: dict[str, Any]) -> str:
    """A trainer that is not ours: nnU-Net's own, or one that the user put into `nnUNet_extTrainer`."""
    if name not in _foreign_trainers():
        raise document.fault(key, f"there is no trainer {name!r}: {suggestion(name, TRAINERS)}, and nnU-Net's own")
    if options := [option for option, value in wanted.items() if value is not None]:
        raise document.fault(
            key,
            f"{name} takes no options in its name, and the study has {', '.join(options)}: write "
            f"{{trainer: {name}, {', '.join(f'{option}: null' for option in options)}}}",
        )
    return name


@cache
def _foreign_trainers() -> frozenset[str]:
    """The names of all other classes in which nnU-Net looks for a trainer; nothing is imported."""
    found = importlib.util.find_spec("nnunetv2")
    locations = found.submodule_search_locations if found else None
    roots = [Path(root, "training", "nnUNetTrainer") for root in locations or ()]
    roots += [Path(root) for root in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if root]  # noqa: SIM112
    files = (file for root in roots for file in root.rglob("*.py"))
    return frozenset(
        name
        for file in files
        for name in re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    )
