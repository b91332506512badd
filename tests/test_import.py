"""What an import must not import: the hook runs at every start of Python, and `--help` answers within half a second."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "nnunetv2", "numpy", "pandas", "scipy", "skimage", "matplotlib", "SimpleITK", "batchgenerators")


def _imports(module: str, *flags: str) -> set[str]:
    """The modules that importing `module` adds to those of a started Python."""
    code = f"import os, sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, *flags, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "nnunet_robust",
        "nnunet_robust.hook",
        "nnunet_robust.cli.doctor",
        "nnunet_robust.trainers",
        "nnunet_robust.cli.main",
    ],
)
def test_importing_it_imports_nothing_heavy(module: str) -> None:
    assert _imports(module).isdisjoint(HEAVY)


def test_the_hook_imports_only_os() -> None:
    # -S: without site-packages, so that what other packages' .pth files import does not count.
    assert _imports("nnunet_robust.hook", "-S") == {"nnunet_robust", "nnunet_robust.hook"}
