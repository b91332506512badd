"""The shell's environment: variables that do harm, and what the jobs of a study are given instead.

Standard library only: it is looked at before nnU-Net, torch and matplotlib are imported, which fail with some values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_robust.common.errors import UserError


@dataclass(frozen=True)
class Harm:
    """A variable that does harm.

    Attributes:
        variable: its name.
        value: what it is set to.
        fatal: whether commands fail with it; otherwise it is worth a note.
        what: what it does, in words.
        fix: the command that mends it.
    """

    variable: str
    value: str
    fatal: bool
    what: str
    fix: str


_BACKENDS = (
    "agg cairo pdf pgf ps svg template macosx nbagg notebook gtk3agg gtk3cairo gtk4agg gtk4cairo qtagg qtcairo qt5agg "
    "qt5cairo tkagg tkcairo webagg wx wxagg wxcairo"
)

Look = Callable[[str], str]
"""What is wrong with a value, in words; empty where nothing is."""


def _whole(least: int, what: str) -> Look:
    def look(value: str) -> str:
        good = re.fullmatch(r"\s*\+?[0-9]{1,6}\s*", value) and int(value) >= least
        return "" if good else f"{what} must be a whole number, at least {least}"

    return look


def _stops_planning(value: str) -> str:
    if value.strip() != "0":
        return ""
    return "nnUNetv2_plan_and_preprocess fails with it; write it in front of nnUNetv2_train only (a study does so)"


def _threads(value: str) -> str:
    good = re.fullmatch(r"\s*[1-9][0-9]{0,5}(\s*,\s*[1-9][0-9]{0,5})*\s*", value)
    return "" if good else "threads are a whole number, at least 1"


def _compiles(value: str) -> str:
    known = ("true", "1", "t", "false", "0", "f")
    return "" if value.lower() in known else "nnU-Net takes it for false: write true or false"


def _missing_folders(value: str) -> str:
    missing = [folder for folder in value.split(os.pathsep) if folder.strip() and not Path(folder).is_dir()]
    return f"there is no folder {missing[0]}: no trainer is found there" if missing else ""


def _shadows(value: str) -> str:
    """Whether a folder of PYTHONPATH has packages of its own in front of those that are installed."""
    for folder in filter(None, value.split(os.pathsep)):
        for name in ("nnunet_robust", "nnunetv2", "torch", "torchvision", "numpy"):
            if Path(folder, name, "__init__.py").is_file():
                return f"{name} in {folder} comes before the installed one"
    return ""


def _no_backend(value: str) -> str:
    """Whether matplotlib knows a backend: it cannot be imported otherwise. It need not be one that works here."""
    known = value == "" or value.startswith("module://") or value.lower() in _BACKENDS.split()
    return "" if known else "matplotlib has no such backend, and no figure can be drawn"


def _hides_gpus(value: str) -> str:
    return "it hides every GPU" if value.split(",")[0].strip() in ("", "-1") else ""


def _as_errors(value: str) -> str:
    return "warnings of nnU-Net and torch end the command" if "error" in value else ""


def _always(what: str) -> Look:
    return lambda value: what if value else ""


def _narrow(value: str) -> str:
    coding = value.partition(":")[0].replace("-", "").replace("_", "").lower()
    return "" if coding in ("", "utf8") else "names and signs that it lacks are printed as \\u codes"


# Variable -> whether commands fail where something is wrong, and what that is.
_LOOKS: tuple[tuple[str, bool, Look], ...] = (
    ("nnUNet_n_proc_DA", True, _whole(0, "nnU-Net's loading processes")),
    ("nnUNet_n_proc_DA", False, _stops_planning),
    ("nnUNet_def_n_proc", True, _whole(1, "nnU-Net's processes")),
    ("nnUNet_compile", False, _compiles),
    ("nnUNet_extTrainer", False, _missing_folders),
    ("OMP_NUM_THREADS", False, _threads),
    ("CUDA_VISIBLE_DEVICES", False, _hides_gpus),
    ("PYTHONPATH", False, _shadows),
    ("PYTHONHOME", False, _always("Pythons of other environments do not start")),
    ("PYTHONOPTIMIZE", False, _always("checks inside nnU-Net and torch are left out")),
    ("PYTHONWARNINGS", False, _as_errors),
    ("PYTHONIOENCODING", False, _narrow),
    ("MPLBACKEND", True, _no_backend),
)


def harmful(environment: Mapping[str, str] | None = None) -> list[Harm]:
    """Find the variables that do harm, by one table.

    Args:
        environment: to look at; None: this process's.

    Example:
        >>> [harm.variable for harm in harmful({"nnUNet_n_proc_DA": "many", "OMP_NUM_THREADS": "1"})]
        ['nnUNet_n_proc_DA']
    """
    given = os.environ if environment is None else environment
    found: dict[str, Harm] = {}
    for variable, fatal, look in _LOOKS:
        if variable in given and variable not in found and (what := look(given[variable])):
            found[variable] = Harm(variable, given[variable], fatal, what, f"unset {variable}")
    return list(found.values())


def refuse_harmful(environment: Mapping[str, str] | None = None) -> None:
    """Stop where a variable would make commands fail.

    Raises:
        UserError: which one, and why.
    """
    for harm in harmful(environment):
        if harm.fatal:
            raise UserError(f"{harm.variable}={harm.value[:80]!r} in your shell: {harm.what}: {harm.fix}")


@dataclass(frozen=True)
class Rule:
    """What the jobs of some stages have a variable set to, whatever the shell says.

    Attributes:
        variable: its name.
        value: what it is set to; None: it is removed.
        stages: those that it holds for; None: all.
    """

    variable: str
    value: str | None
    stages: tuple[str, ...] | None = None


RULES = (
    Rule("nnUNet_n_proc_DA", None, ("dataset", "plan", "sweep", "report")),  # it is of trainings alone
    Rule("MPLBACKEND", "Agg"),  # figures are drawn into files
    Rule("PYTHONUTF8", "1"),  # nnU-Net opens text files in the locale's coding
    Rule("PYTHONIOENCODING", None),
    Rule("PYTHONWARNINGS", None),
    Rule("PYTHONINSPECT", None),
)
"""What each stage of a study needs, and the shell may have otherwise."""


def environment_for(stage: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which the jobs of a stage run.

    Args:
        stage: of a study.
        environment: the shell's, with what the study sets.

    Example:
        >>> "nnUNet_n_proc_DA" in environment_for("plan", {"nnUNet_n_proc_DA": "0"})
        False
    """
    changed = dict(environment)
    for rule in RULES:
        if rule.stages is None or stage in rule.stages:
            changed.pop(rule.variable, None)
            if rule.value is not None:
                changed[rule.variable] = rule.value
    return changed


_SETTABLE = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "GOMP_CPU_AFFINITY",
    "GOMP_SPINCOUNT",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_SOCKET_IFNAME",
    "NUMEXPR_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "OPENBLAS_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "TORCHDYNAMO_DISABLE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


def may_be_set_by_a_file(variable: str) -> bool:
    """Tell whether a study.yaml may set a variable: only those that cannot make a command run other code.

    Example:
        >>> [may_be_set_by_a_file(name) for name in ("nnUNet_compile", "nnUNet_extTrainer", "LD_PRELOAD")]
        [True, False, False]
    """
    if variable.startswith("nnUNet_"):
        return variable != "nnUNet_extTrainer"
    return variable in _SETTABLE
