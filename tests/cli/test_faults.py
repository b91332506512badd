"""A contract over the whole tree of commands: outputs and numbers are checked before the work, faults are one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_robust.cli import main as module
from nnunet_robust.cli.checks import Within
from nnunet_robust.cli.main import INTERNAL, main
from nnunet_robust.cli.options import Output, _members, marks_of
from nnunet_robust.common.errors import UserError
from tests.cli.test_options import COMMANDS, ROOT
from tests.disks import read_only, small_disk
from tests.eval.sweep_output import write_sweep_output

# Every command, with what it must be given; OUT is where it writes. A new command fails until it stands in one of both.
WRITING = {
    "sweep": "-m M --perturb contrast -o OUT",
    "complexity": "-d 1 -o OUT/complexity.csv",
    "report": "RESULTS -o OUT",
    "recommend": "-i I --from RESULTS --json OUT/answer.json",
    "calibrate": "-i I -l L -m M -o OUT/calibration.json",
    "apply": "-i I -m M --calibration C -o OUT",
    "qa": "-i I -m M -o OUT",
    "denoise": "-i I -m M --always -o OUT",
    "monitor fit": "-i I -m M -o OUT/reference.json",
    "monitor check": "R.json -i I -o OUT",
    "study run": "S.yaml -o OUT",
    "study init": "smoke -o OUT/study.yaml",
    "demo": "--quick -o OUT",
}
INTO_NNUNETS = {
    "synthesize textures": "--id 5",
    "synthesize volumes": "--id 5",
    "convert busi": "S --id 5",
    "convert glas": "S --id 5 --boundary",
    "convert msd": "S --id 5 --slices axial",
    "convert acdc": "S --id 5",
}
WRITING_NOTHING = {"trainers": "", "perturbations": "", "doctor": "", "study status": "S --once"}
LINES = WRITING | INTO_NNUNETS | WRITING_NOTHING

# Paths that a command reads; all others must be marked as outputs.
READ = {
    "images", "labels", "model_folders", "models", "calibrations", "series", "weights_from", "denoise_from", "sweep",
    "outputs", "reference", "file", "where", "source",
}  # fmt: skip


class Done(SimpleNamespace):
    code: int
    error: str


@pytest.fixture
def run(capsys, monkeypatch, tmp_path: Path) -> Any:
    """Run a line in an empty folder; its one line of error, and its exit code."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / "nnunet" / variable).mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / "nnunet" / variable))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(module, "app", ROOT.main)  # made once: that takes longer than such a command

    def one(words: list[str]) -> Done:
        capsys.readouterr()
        code = main(words)
        printed = capsys.readouterr()
        lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in printed.err + printed.out
        assert len(lines) == (code in (2, INTERNAL)), printed.err
        return Done(code=code, error="".join(lines))

    return one


def words(path: str, out: str | Path = "OUT", results: str | Path = "RESULTS", **replaced: str) -> list[str]:
    """The line of a command; `replaced` are values of options that it names."""
    line = LINES[path].replace("OUT", "\0").replace("RESULTS", str(results)).replace("\0", str(out))
    return [*path.split(), *(replaced.get(word, word) for word in line.split(" ") if word)]


def test_every_command_is_in_the_tables() -> None:
    assert set(LINES) == set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_path_is_read_or_marked_as_an_output(path: str) -> None:
    command = COMMANDS[path].callback
    outputs = marks_of(command, Output)
    paths = {
        parameter.name
        for parameter in signature(command, eval_str=True).parameters.values()
        if Path in _members(parameter.annotation)
    }
    assert paths == (paths & READ) | set(outputs), "mark it with FOLDER or FILE, or add what is only read to READ"
    assert bool(outputs) == (path in WRITING)
    for name, output in outputs.items():
        (option,) = (option for option in COMMANDS[path].params if option.name == name)
        assert output.flag == option.opts[0]


@contextmanager
def place(kind: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """Where nothing can be written, and what is said of it."""
    (folder / "file").write_text("kept")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "disk").mkdir()
    simple = {
        "a file": ("file", "is a file|no folder"),
        "below a file": ("file/below", "no folder"),
        "a loop": ("loop", "lead round in a circle"),
        "a broken link": ("dangling", "is not there|no folder"),
        "a long name": ("x" * 300, "the name is too long"),
        "a device": ("/dev/full", "device|no folder"),
    }
    if kind in simple:
        yield folder / simple[kind][0], simple[kind][1]
    elif kind == "a full disk":
        with small_disk(folder / "disk", "32k"):
            (folder / "disk" / "filled").write_bytes(bytes(32 << 10))
            yield folder / "disk", "no space is left"
    else:
        with read_only(folder / "disk"):
            yield folder / "disk" / ("" if kind == "a read-only folder" else "new/er"), "can only be read|no right"


KINDS = (
    "a file", "below a file", "a loop", "a broken link", "a long name", "a device", "a full disk", "a read-only folder",
    "below a read-only folder",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", WRITING)
def test_an_output_that_cannot_be_written_is_found_first(path: str, kind: str, run, tmp_path: Path) -> None:
    with place(kind, tmp_path) as (out, says):
        before = sorted(tmp_path.rglob("*"))
        done = run(words(path, out))
        assert sorted(tmp_path.rglob("*")) == before
    assert done.code == 2 and any(each in done.error for each in says.split("|")), done.error


@pytest.mark.parametrize("path", WRITING)
def test_an_empty_output_is_no_output(path: str, run) -> None:
    given = words(path, "OUT")
    at = next(at for at, word in enumerate(given) if word.startswith("OUT"))
    done = run([*given[:at], "", *given[at + 1 :]])
    assert done.code == 2 and f"{given[at - 1]} is empty" in done.error


@pytest.mark.parametrize("path", WRITING)
def test_a_zero_byte_in_a_name(path: str, run) -> None:
    assert "zero byte" in run(words(path, "a\0b")).error


@pytest.mark.parametrize("path", INTO_NNUNETS)
@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_nnunets_folders_that_cannot_be_written_are_found_first(path: str, variable: str, run, tmp_path: Path) -> None:
    if variable == "nnUNet_preprocessed" and path.startswith("synthesize"):
        pytest.skip("writes no folds")
    with read_only(tmp_path / "nnunet" / variable):
        done = run(words(path))
    assert done.code == 2 and f"set {variable} to a folder of yours" in done.error


def test_outputs_by_default_are_found_first(run, tmp_path: Path, monkeypatch) -> None:
    study = tmp_path / "here" / "study.yaml"
    assert run(["study", "init", "smoke", "-o", str(study)]).code == 0
    with read_only(tmp_path / "here"):
        monkeypatch.chdir(tmp_path)  # a folder that one is in stays writable until then
        monkeypatch.chdir(tmp_path / "here")
        assert "name another file with -o" in run(["study", "init", "clinical"]).error
        assert "name another with -o" in run(["study", "run", str(study)]).error


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_on_the_results_of_somebody_else(run, tmp_path: Path) -> None:
    results = write_sweep_output(tmp_path / "results", n_cases=6)
    before = contents(results)
    with read_only(results):
        for line in (["report", str(results)], ["report", "--compare", str(results), str(results)]):
            done = run(line)
            assert done.code == 2 and "say with -o where the report goes" in done.error
        assert run(["report", str(results), "-o", "mine", "--format", "html", "json", "csv"]).code == 0
        assert run(["report", "--compare", str(results), str(results), "-o", "mine"]).code == 0
    assert contents(results) == before
    names = {path.name for path in Path("mine").iterdir()}
    assert names == {"report.html", "verdicts.json", "compare.html", "figures"}


def test_a_disk_that_fills_up_in_a_report(run, tmp_path: Path) -> None:
    results = write_sweep_output(tmp_path / "results", n_cases=6)
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk", "200k"):
        for formats, file in ((["html"], "report.html"), (["pdf", "png"], ".pdf")):
            done = run(["report", str(results), "-o", str(tmp_path / "disk"), "--format", *formats])
            assert done.code == 2 and f"{file}: no space is left on the disk" in done.error
            assert not [path for path in contents(tmp_path / "disk") if path.name.startswith(".")]
            assert not (tmp_path / "disk" / "report.html").exists()


@pytest.mark.parametrize("line", ["synthesize textures --id 5", "synthesize volumes --id 6 --size 64 --radius 9 9"])
def test_a_disk_that_fills_up_in_a_conversion(line: str, run, tmp_path: Path) -> None:
    raw = tmp_path / "nnunet" / "nnUNet_raw"
    with small_disk(raw, "300k"):
        done = run([*line.split(), *(["--test-radius", "9", "9"] if "volumes" in line else [])])
        assert done.code == 2 and "no space is left on the disk" in done.error
        assert contents(raw) == {}


# numbers


def numeric(path: str) -> dict[str, bool]:
    """Options of a command that are numbers -> whether whole ones."""
    parameters = signature(COMMANDS[path].callback, eval_str=True).parameters.values()
    found = {one.name: _members(one.annotation) for one in parameters}
    return {name: int in kinds for name, kinds in found.items() if int in kinds or float in kinds}


NUMBERS = [(path, name) for path in COMMANDS for name in numeric(path)]
NONE = ("nan", "-nan", "inf", "-inf", "1e999", "-1", "9" * 19, "9" * 5000, "-" + "9" * 5000, "0x1f", "1,5", "²", "one")


@pytest.mark.parametrize(("path", "name"), NUMBERS)
def test_every_number_has_a_range(path: str, name: str) -> None:
    assert name in marks_of(COMMANDS[path].callback, Within), "mark it with a range of cli.checks"


@pytest.mark.parametrize(("path", "name"), NUMBERS)
def test_numbers_that_are_none_are_refused(path: str, name: str, run) -> None:
    (option,) = (option for option in COMMANDS[path].params if option.name == name)
    flag = option.opts[0]
    given = words(path)
    if flag in given:
        del given[given.index(flag) : given.index(flag) + 2]
    for number in NONE:
        done = run([*given, flag, *[number] * max(1, option.nargs)])
        assert done.code == 2 and (flag in done.error or "level of contrast" in done.error), done.error
        assert len(done.error) < 700


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sweep -m M -o O --perturb contrast --replicates 0", "--replicates 0"),
        ("sweep -m M -o O --perturb contrast --attack-steps 0", "--attack-steps 0"),
        ("sweep -m M -o O --perturb contrast --replicates 1000000000", "--replicates 1000000000"),
        ("sweep -m M -o O --perturb contrast --gpus 0", "--gpus 0"),
        ("sweep -m M -o O --perturb contrast --gpus 1.5", "--gpus 1.5"),
        ("sweep -m M -o O --perturb contrast --gpus 2 -device cpu", "--gpus 2: the device is cpu"),
        ("sweep -m M -o O --perturb contrast=nan", "level of contrast"),
        ("sweep -m M -o O --perturb contrast=0.1,inf", "level of contrast"),
        ("sweep -m M -o O --perturb contrast=" + "9" * 5000, "level of contrast"),
        ("sweep -m M -o O --perturb contrast=,", "levels are numbers"),
        ("synthesize volumes --id 5 --size 100000", "takes 58 PB of memory, and this machine has "),
        ("synthesize volumes --id 5 --size 32 32 1000000000", "--size 1000000000"),
        ("synthesize textures --id 5 --size 100000", "the largest size that works is 256"),
        ("synthesize volumes --id 5 --spacing 0 1 1", "spacing must be a positive number"),
        ("trainers nnUNetTrainer -d " + "9" * 5000, "no dataset '9999"),
        ("trainers nnUNetTrainer -d ²", "no dataset '²'"),
        ("complexity -d " + "9" * 5000 + " -o x.csv", "no dataset '9999"),
        ("study run S.yaml --time " + "9" * 5000, "--time 9999"),
        ("study run S.yaml --time 1e999", "--time 1e999"),
        ("study run S.yaml --mem " + "9" * 5000 + "G", "--mem 9999"),
        ("study run S.yaml --mem nan", "--mem nan"),
    ],
    ids=lambda text: text[:60],
)
def test_numbers_out_of_range_or_in_texts(line: str, says: str, run) -> None:
    done = run(line.split())
    assert done.code == 2 and says in done.error and len(done.error) < 700, done.error


def test_names_of_trainers_with_numbers_that_no_memory_holds(run, tmp_path: Path, monkeypatch) -> None:
    import json

    from tests.trainers.test_cost import DATASET, PLANS

    folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset903_Cost"
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(PLANS))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    for option in ("ps", "st", "bs", "seed"):
        for number in ("9" * 10, "9" * 30, "9" * 5000):
            done = run(["trainers", f"nnUNetTrainerNoSkip_{option}{number}", "-d", "903", "-c", "3d_fullres"])
            expected = 2 if option != "seed" or len(number) > 18 else 0
            assert done.code == expected and ("at most 9 digits" in done.error) == (expected == 2), done.error
            assert len(done.error) < 700
    for name, says in {
        "nnUNetTrainer_ps1000000": "takes 24 EB for its images alone",
        "nnUNetTrainerUNETR_ps16000": "takes 98.3 TB for its images alone",
        "nnUNetTrainer_" + "9" * 5000 + "epochs": "at most 9 digits",
        "nnUNetTrainer_" + "9" * 5000 + "iters": "at most 9 digits",
    }.items():
        done = run(["trainers", name, "-d", "903", "-c", "3d_fullres"])
        assert done.code == 2 and says in done.error, done.error
    assert run(["trainers", "nnUNetTrainer_bs999999999", "-d", "903", "-c", "3d_fullres"]).code == 0  # told: 2.21 PB


# faults of the machine, and of this package


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (OSError(errno.EIO, "Input/output error", "a.csv"), 2, "error: a.csv: the disk failed to read or write"),
        (OSError("no number"), 2, "error: no number: check the path"),
        (MemoryError(), 2, "error: not enough memory"),
        (RuntimeError("CUDA out of memory"), 2, "error: not enough memory"),
        (RecursionError(), 2, "error: a file, or an option, is nested too deeply"),
        (UnicodeEncodeError("ascii", "ä", 0, 1, "no"), 2, "error: a text is not in UTF-8"),
        (UserError("two\nlines"), 2, "error: two\\nlines"),
        (KeyError("dice"), INTERNAL, "error: a fault of nnunet-robust: KeyError: 'dice': nnunet-robust --debug"),
        (AssertionError(), INTERNAL, "error: a fault of nnunet-robust: AssertionError"),
        (RuntimeError("a\nb"), INTERNAL, "error: a fault of nnunet-robust: RuntimeError: a b"),
    ],
)
def test_what_goes_wrong_in_a_command_is_one_line(fault: Exception, code: int, says: str, run, monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise fault

    monkeypatch.setattr("nnunet_robust.study.examples.example", fails)
    done = run(["study", "init", "smoke"])
    assert done.code == code and done.error.startswith(says), done.error
    with pytest.raises(type(fault)):
        main(["--debug", "study", "init", "smoke"])


def test_a_fault_of_our_own_has_a_code_that_no_answer_has() -> None:
    assert module.INTERNAL not in (0, 1, 2, 3, 130)
