"""Options that were given and can have no effect: refused at once, before anything is loaded.

A row of `IDLE` is an option of some commands, and when it does nothing there. What only a sweep's perturbations tell
is refused by `nnunet_robust.eval.sweep.checks`, values out of range by the dataclasses that they end up in.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_robust.common.errors import UserError


class Idle(NamedTuple):
    """An option that does nothing under a condition.

    Attributes:
        commands: that have the option.
        options: names of their parameters.
        when: whether they do nothing, by the values of all options of the command.
        advice: why, and what to do.
    """

    commands: tuple[str, ...]
    options: tuple[str, ...]
    when: Callable[[Mapping[str, Any]], Any]
    advice: str


IDLE = (
    Idle(
        ("apply", "qa", "denoise", "fit"), ("dataset", "configuration", "plans"), lambda given: given["model_folders"],
        "the model folder (-m) says it already: leave it out, or name a trainer with -tr instead of -m",
    ),
    Idle(
        ("sweep", "calibrate"), ("configuration", "plans"),
        lambda given: given["model_folders"] and not (given["trainers"] or given.get("attack_sources")),
        "it is of trainers (-tr), a model folder (-m) says it already: leave it out",
    ),
    Idle(
        ("trainers",), ("configuration", "plans"), lambda given: not given["dataset"],
        "it is of a dataset's plans: name one with -d, and trainers",
    ),
    Idle(
        ("calibrate", "fit"), ("members",), lambda given: "mirroring" in given["members"] and not given["mirroring"],
        "--disable-tta leaves no mirrored copies to tell apart: leave out one of the two",
    ),
    Idle(
        ("report",), ("margin",), lambda given: given["compare"],
        "it is of the recipe, which --compare does not make: leave it out",
    ),
    Idle(
        ("qa",), ("kind",), lambda given: not given["calibrations"],
        "without a calibration there are no inner and outer masks: give --calibration, or leave it out",
    ),
    Idle(
        ("glas",), ("boundary_px",), lambda given: not given["boundary"],
        "it is of the third class: give --boundary, too",
    ),
    Idle(
        ("acdc", "busi", "glas", "msd"), ("seed",), lambda given: not given["test_share"],
        "it draws test cases, and a --test-share of 0 draws none: give a share, or leave it out",
    ),
    Idle(
        ("msd",), ("min_foreground",), lambda given: given["slices"] is None,
        "it chooses slices: give --slices axial, too",
    ),
    Idle(
        ("volumes",), ("alpha", "direction"), lambda given: given["foreground"] is None,
        "it is of textures: give --foreground and --background, or leave it out",
    ),
    Idle(
        ("run",), ("partition", "account", "time_limit", "gres"), lambda given: given["executor"] == "local",
        "it is of a cluster's jobs: give --executor, as in --executor slurm, or leave it out",
    ),
)  # fmt: skip


class Within(NamedTuple):
    """Marks an option as numbers of a range, beside Typer's own description of it; nan is in none.

    Attributes:
        low: the least number.
        high: the greatest.
    """

    low: float
    high: float


SEED = Within(0, 2**63 - 1)
SHARE = Within(0, 1)
RATE = Within(1e-6, 1)  # one in a million: what is rarer no data tell
COUNT = Within(1, 1_000_000)
LENGTH = Within(0, 1e6)
ANY = Within(-math.inf, math.inf)
"""For numbers whose range another option tells."""


def check_words(words: Sequence[str], texts: Collection[str]) -> None:
    """Refuse what no file's name and no number can be: nothing at all, or a zero byte in it.

    Args:
        words: of a command, as the shell hands them over.
        texts: flags of the options that are any text, also an empty one.

    Raises:
        UserError: names the option.
    """
    for before, word in zip(["", *words], words, strict=False):
        flag, value = word.split("=", 1) if word.startswith("--") and "=" in word else (before, word)
        if "\0" in value:
            raise UserError(f"{value}: it has a zero byte in it, which no name may have")
        if not value and flag not in texts:
            raise UserError(f"{flag if flag.startswith('-') else 'an argument'} is empty: is a variable not set?")


def check_numbers(context: Any, ranges: Mapping[str, Within]) -> None:
    """Refuse numbers that are out of range, or none.

    Args:
        context: click's, its arguments parsed.
        ranges: of the options that are numbers, by the names of their parameters.

    Raises:
        UserError: names the first option, its value and the range.
    """
    for option in context.command.params:
        value = context.params[option.name]
        for number in value if isinstance(value, list | tuple) else [value]:
            low, high = ranges.get(option.name, ANY)
            if number is not None and option.name in ranges and not low <= number <= high:
                kind = "a whole number" if isinstance(number, int) else "a number"
                raise UserError(f"{option.opts[0]} {_number(number)}: give {kind} from {low:g} to {_number(high)}")


def _number(value: float) -> str:
    """A number in few letters: those of thousands of digits are refused, too."""
    return f"{value:g}" if isinstance(value, float) else str(value) if abs(value) < 2**63 else "of so many digits"


def check_options(context: Any) -> None:
    """Refuse options of a command that were given and can have no effect.

    Args:
        context: click's, its arguments parsed.

    Raises:
        UserError: names the first one, its value, and what to do.
    """
    given = {
        option.name: option
        for option in context.command.params
        if context.get_parameter_source(option.name).name == "COMMANDLINE"
    }
    for name, option in given.items():
        if getattr(option, "multiple", False):
            _check_twice(option.opts[0], context.params[name])
    for row in IDLE:
        if context.command.name in row.commands and row.when(context.params):
            for name in (name for name in row.options if name in given):
                value = context.params[name]
                values = value if isinstance(value, list | tuple) else [getattr(value, "value", value)]
                raise UserError(f"{given[name].opts[0]} {' '.join(map(str, values))}: {row.advice}")


def _check_twice(flag: str, values: list[Any]) -> None:
    """Refuse the same word twice; numbers may be alike, as the sides of a volume are."""
    words = [Path(os.path.realpath(value)) if isinstance(value, Path) else value for value in values]
    for at, word in enumerate(words):
        if isinstance(word, str | Path) and word in words[:at]:
            raise UserError(f"{flag} {values[at]}: it is named twice: name it once")
