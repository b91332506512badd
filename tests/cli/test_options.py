"""Options of the commands: groups, several values after a flag, an example in every help, completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import typer

from nnunet_robust.cli import sweep
from nnunet_robust.cli.main import app
from nnunet_robust.cli.options import ModelAndFoldsFlags, repeat_flags
from nnunet_robust.eval.sweep.parameters import SweepParameters

ROOT = typer.main.get_command(app)


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())


def parsed(line: str) -> dict[str, Any]:
    """What a line of a shell says, as the command that it names reads it; raises where it is refused."""
    words = shlex.split(line.replace("\\\n", " "), comments=True)
    assert words.pop(0) == "nnunet-robust"
    command: Any = ROOT
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return dict(command.make_context(command.name, words).params)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("-tr A B -f 0 1 -o OUT", "-tr A -tr B -f 0 -f 1 -o OUT"),
        ("--levels -0.5 1e-3 2 --perturb x", "--levels -0.5 --levels 1e-3 --levels 2 --perturb x"),
        ("-m a b --disable-tta -o OUT", "-m a -m b --disable-tta -o OUT"),
        ("OUT", "OUT"),
        ("-tr A -tr B", "-tr A -tr B"),
    ],
)
def test_several_values_after_a_flag(given: str, read: str) -> None:
    assert repeat_flags(given.split(), {"-tr", "-f", "-m", "--levels", "--perturb"}) == read.split()


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("sweep -o OUT --attack-source self A B --seed 3", "attack_sources", ["self", "A", "B"]),
        ("sweep --denoise auto always -o OUT", "denoise", ["auto", "always"]),
        ("sweep -o OUT -l A B", "labels", [Path("A"), Path("B")]),
        ("sweep -o OUT --levels -0.5 2 --perturb x", "levels", [-0.5, 2.0]),
        ("sweep -o OUT --disable-tta -f 0", "mirroring", False),
        ("sweep -o OUT", "mirroring", True),
        ("qa -i new -o OUT --calibration A B --dice-limits 0.7 0.5", "calibrations", [Path("A"), Path("B")]),
        ("qa -i new -o OUT --dice-limits 0.7 0.5 --calibration A", "dice_limits", (0.7, 0.5)),
        ("report A B --format png csv", "outputs", [Path("A"), Path("B")]),
        ("report A B --format png csv", "formats", ["png", "csv"]),
        ("report --margin 0.02 A B", "outputs", [Path("A"), Path("B")]),
        ("synthesize volumes --id 5 --size 32 48 64 --radius 4 9", "size", [32, 48, 64]),
        ("synthesize volumes --id 5 --size 32 48 64 --radius 4 9", "radius", (4.0, 9.0)),
    ],
)
def test_values_reach_their_option(line: str, name: str, value: object) -> None:
    assert parsed(f"nnunet-robust {line}")[name] == value


def lists_of(command: Any) -> Iterator[tuple[str, Any]]:
    """Name and type of the values of every option that is a list, by the command's own annotations."""
    for parameter in signature(command.callback, eval_str=True).parameters.values():
        assert get_origin(parameter.annotation) is Annotated
        kind, info, *_ = get_args(parameter.annotation)
        for part in (kind, *get_args(kind)):
            if get_origin(part) is list and not isinstance(info, type(typer.Argument())):
                yield parameter.name, get_args(part)[0]


def test_every_option_that_is_a_list_takes_several_values() -> None:
    found = set()
    for path, command in COMMANDS.items():
        needed = [word for option in command.params if option.required for word in required(option)]
        for name, kind in lists_of(command):
            (option,) = (option for option in command.params if option.name == name)
            values = ["1", "1"] if kind in (int, float) else ["1", "2"]
            context = command.make_context(path, [*needed, option.opts[0], *values])
            assert context.params[name] == list(map(kind, values)), (path, name)
            found.add(option.opts[0])
    assert {"-tr", "-f", "-m", "-l", "--attack-source", "--perturb", "--test-radii", "--format"} <= found


def required(option: Any) -> list[str]:
    return [option.opts[0], "1"] if option.opts[0].startswith("-") else ["1"]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_an_example_that_parses(path: str) -> None:
    last = " ".join(COMMANDS[path].help.split("\n\n")[-1].split())
    assert last.startswith(f"Example: nnunet-robust {path}")
    parsed(last.removeprefix("Example: "))


def lines_of_docs() -> Iterator[str]:
    repository = Path(__file__).parents[2]
    for page in (repository / "README.md", *sorted((repository / "docs").glob("*.md"))):
        for line in re.findall(
            r"^ {0,4}(nnunet-robust (?:.*\\\n)*.*)$", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            if "..." not in line and " [" not in line:
                yield line


@pytest.mark.parametrize("line", sorted(set(lines_of_docs())))
def test_the_commands_of_the_docs_parse(line: str) -> None:
    parsed(line)


def flags_of_sweep() -> dict[str, Any]:
    groups = [kind for kind in vars(sweep).values() if isinstance(kind, type) and is_dataclass(kind)]
    return {option.name: option for group in (*groups, ModelAndFoldsFlags) for option in fields(group)}


def test_the_flags_of_a_sweep_are_its_parameters_with_the_same_defaults() -> None:
    flags, parameters = flags_of_sweep(), {one.name: one for one in fields(SweepParameters)}
    assert set(parameters) - set(flags) == {"output", "conditions", "save_predictions", "tolerance_mm"}
    assert set(flags) - set(parameters) == {"perturb", "preset", "levels"}
    for name in set(flags) & set(parameters):
        given = () if flags[name].default is MISSING else flags[name].default
        assert given == parameters[name].default, name


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("sweep -tr nnUNetTrainerNo", {"nnUNetTrainerNoSkip", "nnUNetTrainerNoTopSkip"}),
        ("sweep --preset ka", {"kamath2025"}),
        ("sweep --perturb rici", {"rician_noise"}),
        ("swee", {"sweep"}),
    ],
)
def test_the_shell_completes(words: str, offered: set[str]) -> None:
    count = len(words.split())
    asked = {
        "_NNUNET_ROBUST_COMPLETE": "complete_bash",
        "COMP_WORDS": f"nnunet-robust {words}",
        "COMP_CWORD": str(count),
    }
    command = [sys.executable, "-m", "nnunet_robust.cli.main"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True)
    assert set(done.stdout.split()) == offered, done.stderr
