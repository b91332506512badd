"""Variables of the shell that do harm: refused with one line, named by the doctor, kept away from a study's stages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.common.environment import RULES, environment_for, harmful, may_be_set_by_a_file
from nnunet_robust.study.config import STAGES

HARMFUL = {
    ("nnUNet_n_proc_DA", "abc"): True,
    ("nnUNet_n_proc_DA", "-1"): True,
    ("nnUNet_n_proc_DA", ""): True,
    ("nnUNet_n_proc_DA", "9" * 5000): True,
    ("nnUNet_n_proc_DA", "0"): False,
    ("nnUNet_def_n_proc", "0"): True,
    ("nnUNet_def_n_proc", "two"): True,
    ("MPLBACKEND", "nonsense"): True,
    ("nnUNet_compile", "yes"): False,
    ("nnUNet_extTrainer", f"/nowhere{os.pathsep}/tmp"): False,
    ("OMP_NUM_THREADS", "0"): False,
    ("CUDA_VISIBLE_DEVICES", ""): False,
    ("CUDA_VISIBLE_DEVICES", "-1"): False,
    ("PYTHONHOME", "/usr"): False,
    ("PYTHONOPTIMIZE", "2"): False,
    ("PYTHONWARNINGS", "error"): False,
    ("PYTHONIOENCODING", "ascii"): False,
}
HARMLESS = {
    "nnUNet_n_proc_DA": "12", "nnUNet_def_n_proc": "1", "nnUNet_compile": "false", "nnUNet_extTrainer": "/tmp",
    "OMP_NUM_THREADS": "4,2", "CUDA_VISIBLE_DEVICES": "0,1", "PYTHONPATH": "/tmp", "PYTHONWARNINGS": "ignore",
    "PYTHONIOENCODING": "UTF-8:replace", "MPLBACKEND": "TkAgg", "PYTHONSAFEPATH": "1", "TERM": "dumb", "LC_ALL": "C",
    "PYTHONHOME": "", "PYTHONOPTIMIZE": "", "COLUMNS": "0", "NO_COLOR": "1",
}  # fmt: skip


@pytest.mark.parametrize(("variable", "value"), HARMFUL)
def test_what_does_harm_is_named(variable: str, value: str) -> None:
    (harm,) = harmful({variable: value})
    assert (harm.variable, harm.value, harm.fatal) == (variable, value, HARMFUL[variable, value])
    assert harm.what and "\n" not in harm.what and harm.fix == f"unset {variable}"


def test_what_does_none_is_not() -> None:
    assert harmful(HARMLESS) == []


def test_another_copy_of_the_package_on_the_path_is_named(tmp_path) -> None:
    (tmp_path / "nnunetv2").mkdir()
    (tmp_path / "nnunetv2" / "__init__.py").touch()
    (harm,) = harmful({"PYTHONPATH": f"/tmp{os.pathsep}{tmp_path}"})
    assert harm.what == f"nnunetv2 in {tmp_path} comes before the installed one"


@pytest.mark.parametrize(("variable", "value"), [case for case, fatal in HARMFUL.items() if fatal])
def test_commands_refuse_what_would_make_them_fail(variable: str, value: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["perturbations"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(f"error: {variable}='{value[:80]}' in your shell: ")
    assert printed.err.count("\n") == 1


def test_the_doctor_has_a_row_for_each(monkeypatch) -> None:
    from nnunet_robust.cli.doctor import _environment

    for variable in {variable for variable, _ in HARMFUL} | {"PYTHONPATH"}:
        monkeypatch.delenv(variable, raising=False)
    assert [(row.name, row.ok) for row in _environment()] == [("environment", True)]
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "none")
    assert [(row.name, row.ok) for row in _environment()] == [("nnUNet_n_proc_DA", None), ("nnUNet_def_n_proc", False)]


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_the_environment_that_it_needs(stage: str) -> None:
    shell = {rule.variable: "0" for rule in RULES} | {"nnUNet_def_n_proc": "2", "PATH": "/bin"}
    found = environment_for(stage, shell)
    assert ("nnUNet_n_proc_DA" in found) is (stage == "train")
    assert found["nnUNet_def_n_proc"] == "2" and found["PATH"] == "/bin" and found["MPLBACKEND"] == "Agg"
    assert not {"PYTHONIOENCODING", "PYTHONWARNINGS", "PYTHONINSPECT"} & found.keys()


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "PATH", "PYTHONPATH", "nnUNet_extTrainer", "BASH_ENV", "HOME"])
def test_a_file_sets_nothing_that_runs_other_code(variable: str) -> None:
    assert not may_be_set_by_a_file(variable)


def test_signs_that_the_shell_s_coding_lacks_are_printed_as_codes() -> None:
    code = "import sys; from nnunet_robust.cli import main as m; m.app = lambda *a, **k: print('\\u2212')\n"
    code += "sys.exit(m.main())"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u2212\n", "")
