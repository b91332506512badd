"""Is everything in place? Each check is a row: what was found, and the command that mends it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nnunet_robust import __version__, hook
from nnunet_robust.common.environment import harmful


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# What pyproject.toml asks for; a test holds the two together.
PYTHON_SINCE, PYTHON_TESTED = (3, 10), (3, 13)
NNUNET_SINCE, NNUNET_BELOW = (2, 8), (2, 10)
NNUNET_REQUIREMENT = f"nnunetv2>={_dotted(NNUNET_SINCE)},<{_dotted(NNUNET_BELOW)}"

# Python reads the second file instead of the first from 3.15 on (PEP 829).
HOOK_FILE = "nnunet_robust.pth" if sys.version_info < (3, 15) else "nnunet_robust.start"

PACKAGE = Path(hook.PLUGIN_FOLDER).parent
FOLDERS: dict[str, str] = {
    "nnUNet_raw": "the raw datasets",
    "nnUNet_preprocessed": "the preprocessed datasets",
    "nnUNet_results": "the trained models",
}


@dataclass(frozen=True)
class Check:
    """A row of the doctor's table.

    Attributes:
        name: what was looked at.
        ok: True, False where something is broken, None for a warning.
        detail: what was found, one line.
        fix: the command that mends it; empty where nothing is to be mended.
    """

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


def checks() -> list[Check]:
    """All checks, in the order in which their faults want mending. Prints nothing, and never raises.

    Imports torch and nnunetv2: takes seconds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _rows()


def _rows() -> list[Check]:
    rows = [check() for check in (_python, _package, _nnunet, _torch, _torchvision, _hook)]
    # Finding a trainer needs all of the above, so that the first fault there is the one to mend.
    first_fix = next((row.fix for row in rows if row.ok is False), _reinstall())
    rows += [_lookup(first_fix), *_trainers(first_fix), _gpu()]
    return rows + [_folder(variable) for variable in FOLDERS] + _environment()


def _python() -> Check:
    version = _dotted(sys.version_info[:3])
    since, tested = _dotted(PYTHON_SINCE), _dotted(PYTHON_TESTED)
    if PYTHON_SINCE <= sys.version_info[:2] <= PYTHON_TESTED:
        return Check("Python", True, version)
    ok = False if sys.version_info[:2] < PYTHON_SINCE else None
    return Check("Python", ok, f"{version}; tested with {since} to {tested}", f"python{tested} -m venv .venv")


def _package() -> Check:
    found = f"{__version__} in {PACKAGE}"
    if _version("nnunet-robust") is None:
        return Check("nnunet_robust", None, f"{found}, imported but not installed", _reinstall())
    return Check("nnunet_robust", True, found)


def _nnunet() -> Check:
    fix = f'pip install "{NNUNET_REQUIREMENT}"'
    version = _version("nnunetv2")
    if version is None:
        return Check("nnunetv2", False, "not installed", fix)
    release = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if not NNUNET_SINCE <= release < NNUNET_BELOW:
        return Check("nnunetv2", False, f"{version}; {NNUNET_REQUIREMENT} is needed", fix)
    return Check("nnunetv2", True, version)


def _torch() -> Check:
    try:
        import torch
    except Exception as error:
        return Check("torch", False, _one_line(error), _reinstall_torch())
    return Check("torch", True, torch.__version__)


def _torchvision() -> Check:
    """Whether torchvision's operators load: beside another build of torch they do not, and then no trainer is found."""
    try:
        import torchvision
    except Exception as error:
        pair = f"torchvision {_version('torchvision')} does not load beside torch {_version('torch')}"
        return Check("torchvision", False, f"{pair}: {_one_line(error)}", _reinstall_torch())
    return Check("torchvision", True, torchvision.__version__)


def _hook() -> Check:
    installed = any(Path(folder, HOOK_FILE).is_file() for folder in sys.path)
    if not hook.is_active():
        found = f"though {HOOK_FILE} is installed" if installed else f"as {HOOK_FILE} is not installed"
        export = f'export {hook.VARIABLE}="${{{hook.VARIABLE}:+${hook.VARIABLE}{os.pathsep}}}{hook.PLUGIN_FOLDER}"'
        fix = f"{_reinstall()}, or in every shell: {export}"
        return Check("hook", False, f"{hook.VARIABLE} does not name our folder, {found}", fix)
    if not installed:
        return Check("hook", True, f"set by hand: {hook.VARIABLE}={os.environ[hook.VARIABLE]}")
    return Check("hook", True, f"{HOOK_FILE} is installed: {hook.VARIABLE}={os.environ[hook.VARIABLE]}")


def _lookup(first_fix: str) -> Check:
    """Whether nnU-Net itself, asked as `nnUNetv2_train` asks, finds a trainer of ours."""
    name = "nnUNetTrainerNoSkip"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

            found = recursive_find_trainer_class_by_name(name)
    except Exception as error:
        return Check("lookup", False, f"nnU-Net does not find {name}: {_one_line(error)}", first_fix)
    if not found.__module__.startswith("nnunet_robust."):
        clash = f"nnU-Net finds another {name}, in {found.__module__}"
        return Check("lookup", False, clash, f"unset {hook.VARIABLE}")
    return Check("lookup", True, f"nnU-Net finds {name}")


def _trainers(first_fix: str) -> list[Check]:
    """Whether each trainer of the table can be imported."""
    from nnunet_robust.trainers import TRAINERS, trainer_class

    def row(name: str) -> Check:
        try:
            trainer_class(name)
        except Exception as error:
            return Check(name, False, f"cannot be imported: {_one_line(error)}", first_fix)
        return Check(name, True, TRAINERS[name].summary)

    return [row(name) for name in TRAINERS]


def _gpu() -> Check:
    try:
        import torch

        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
            return Check("GPU", True, ", ".join(names))
        if torch.backends.mps.is_available():
            return Check("GPU", True, "Apple silicon: -device mps")
    except Exception as error:
        return Check("GPU", None, _one_line(error))
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        detail = f"torch {torch.__version__} is built without CUDA: it cannot use this GPU"
        return Check("GPU", None, detail, "pip install --force-reinstall torch torchvision")
    return Check("GPU", None, "none: use -device cpu; trainings at full length take days")


def _environment() -> list[Check]:
    """A row for each variable of the shell that does harm; one where none does."""
    found = [
        Check(harm.variable, False if harm.fatal else None, f"{harm.value or 'empty'}: {harm.what}", harm.fix)
        for harm in harmful()
    ]
    return found or [Check("environment", True, "no variable that does harm")]


def _folder(variable: str) -> Check:
    value = os.environ.get(variable)
    if not value:
        path = f'"$HOME/nnUNet/{variable.removeprefix("nnUNet_")}"'
        detail = f"not set: the folder of {FOLDERS[variable]}"
        return Check(variable, False, detail, f"export {variable}={path} && mkdir -p {path}")
    folder, quoted = Path(value), shlex.quote(value)
    faults: list[tuple[Callable[[], bool], str, str]] = [
        (folder.exists, "does not exist", f"mkdir -p {quoted}"),
        (folder.is_dir, "is a file, not a folder", f"mv {quoted} {quoted}.file && mkdir {quoted}"),
        (lambda: os.access(folder, os.W_OK | os.X_OK), "is not writable", f"chmod u+rwx {quoted}"),
    ]
    for holds, fault, fix in faults:
        if not holds():
            return Check(variable, False, f"{value} {fault}", fix)
    return Check(variable, True, value)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _reinstall() -> str:
    source = PACKAGE.parent
    what = f"-e {shlex.quote(str(source))}" if (source / "pyproject.toml").is_file() else "nnunet-robust"
    return f"pip install --force-reinstall --no-deps {what}"


def _reinstall_torch() -> str:
    """Both from one place, that of the torch that is here, so that pip takes builds that fit."""
    build = (_version("torch") or "").partition("+")[2]
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"pip install --force-reinstall torch torchvision{index}"


def _one_line(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", width=200, placeholder=" ...")
