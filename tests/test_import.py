"""What an import must not import: the hook runs at every start of Python, and `--help` answers within half a second."""

from __future__ import annotations

import signal
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


def test_ctrl_c_during_the_start_shows_no_traceback() -> None:
    """Before the command line is there to say what is kept, the signal ends the process, as any other program."""
    code = (
        "import signal, sys, types\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from nnunet_robust.cli.entry import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
