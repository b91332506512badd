"""The examples in docstrings run, and show what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from types import ModuleType

import pytest

import nnunet_robust

PACKAGE = Path(nnunet_robust.__file__).parent
FAMILIES = sorted(
    path.stem for path in (PACKAGE / "perturbations").glob("[!_]*.py") if "\nROWS = (" in path.read_text("utf-8")
)


def _with_examples() -> list[str]:
    paths = (path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8"))
    return [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]


MODULES = _with_examples()


def _examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    tests, said = _examples(importlib.import_module(name)), []
    assert tests
    for test in tests:
        doctest.DocTestRunner().run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_perturbations_has_an_example(family: str) -> None:
    assert f"nnunet_robust.perturbations.{family}" in MODULES


def test_examples_are_many_and_everywhere() -> None:
    tests = [test for name in MODULES for test in _examples(importlib.import_module(name))]
    assert len(tests) >= 20
    folders = {name.rsplit(".", 1)[0].removeprefix("nnunet_robust.") for name in MODULES}
    assert folders >= {
        "perturbations",
        "eval.metrics",
        "eval.statistics",
        "eval.uncertainty",
        "eval.images",
        "trainers",
    }


def test_an_example_that_fails_is_seen() -> None:
    said: list[str] = []
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3", {}, "wrong", None, 0)
    doctest.DocTestRunner().run(wrong, out=said.append)
    assert said
