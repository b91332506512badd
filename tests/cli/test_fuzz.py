"""Command lines, YAML, JSON and CSV that nobody would write: one clear line each, no traceback, no file left behind.

A few hundred examples, always the same ones; thousands with `-m nightly`.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from typer.main import get_command

from nnunet_robust.cli.main import app, main
from nnunet_robust.common.errors import UserError
from nnunet_robust.deployment.drift.reference import Reference, read_reference, write_reference
from nnunet_robust.deployment.drift.stream import Stream
from nnunet_robust.eval.conformal.calibration import calibrate
from nnunet_robust.eval.conformal.calibration_file import read_calibration, write_calibration
from nnunet_robust.study import config
from nnunet_robust.study.config import load_study
from nnunet_robust.study.examples import example
from tests.deployment.drift.test_reference import MODEL, image
from tests.eval.conformal.test_calibration import MODEL as CALIBRATED
from tests.eval.conformal.test_calibration import case
from tests.eval.sweep_output import write_sweep_output

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
LEFT_OUT = {"demo", "doctor"}
"""Commands that need minutes, or that look at the machine rather than at what they are given."""
NASTY = (
    *(
        "",
        " ",
        "-",
        "--",
        "nan",
        "inf",
        "-1",
        "0",
        "1e400",
        "9" * 5000,
        "a\nb",
        "a\x00b",
        "..",
        "/",
        "$x^2$",
        "<b>",
    ),
    *("=1+1", "\u202e", "\U0001f600", "%s", "{}", "nnUNetTrainer_bs0", "gaussian_blur=nan", "1,2", "901"),
)


def examples(quick: int, nightly: int) -> pytest.MarkDecorator:
    """How many examples a test tries, always and at night."""
    many = pytest.param(nightly, marks=[pytest.mark.nightly, pytest.mark.timeout(4 * 3600)])
    return pytest.mark.parametrize("count", [quick, many])


def try_all(check: Callable[[Any], None], strategy: st.SearchStrategy[Any], count: int) -> None:
    """Check so many examples, the same ones in every run."""
    chosen = settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    chosen(given(strategy)(check))()


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder, and none of nnU-Net's."""
    for name in FOLDERS:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def tried(arguments: list[str]) -> tuple[int, str]:
    """Run the command line; its exit code, and what it said on standard error."""
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        code = main(arguments)
    text = said.getvalue()
    note(f"{arguments} -> {code}: {text}")
    assert "Traceback" not in text + printed.getvalue()
    assert code in (0, 1, 2, 3)
    if code == 2:
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        # A command without anything prints its help, and `trainers` what is wrong with each name.
        assert (len(errors) == 1 and text.rstrip("\n").splitlines()[-1] == errors[0]) or not text
    return code, text


def left_behind(folder: Path) -> list[str]:
    """Files in a folder; a lock stays, as one that is removed can be held twice."""
    return [path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]


# Command lines.


def _leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, below in getattr(command, "commands", {}).items():
        if name not in LEFT_OUT:
            yield from _leaves(below, (*words, name))
    if not hasattr(command, "commands"):
        yield words, command


COMMANDS = list(_leaves(get_command(app)))


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with some of its options, each with a value that may be of its type."""
    words, command = draw(st.sampled_from(COMMANDS))
    value = st.one_of(
        st.sampled_from(NASTY), st.integers().map(str), st.floats().map(str), st.text(max_size=20),
        st.sampled_from(["new", "here.json", "901", "2d", "cpu", "0.1", "nnUNetTrainer", "gaussian_blur", "smoke"]),
    )  # fmt: skip
    arguments = list(words)
    some = st.lists(st.sampled_from(command.params), max_size=6) if command.params else st.just([])
    for parameter in draw(some):
        flags = parameter.opts if parameter.param_type_name == "option" else []
        if "--help" in flags:
            continue
        arguments += draw(st.sampled_from([[flag] for flag in flags])) if flags else []
        if not getattr(parameter, "is_flag", False):
            arguments += draw(st.lists(value, min_size=1, max_size=max(1, parameter.nargs)))
    return [*arguments, "--once"] if words == ("study", "status") else arguments


@examples(150, 5000)
def test_command_lines(count: int, nowhere: Path) -> None:
    def check(arguments: list[str]) -> None:
        code, _ = tried(arguments)
        left = left_behind(nowhere)
        for path in nowhere.rglob("*"):
            if path.is_file():
                path.unlink()
        assert code in (0, 1, 3) or not left

    try_all(check, command_lines(), count)


# Documents: a good one, damaged.


@st.composite
def damages(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a file after one to four damages."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.sampled_from([0, 1, 2, 10, 100, 10_000])))
        added = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    [
                        b"\x00",
                        b"\xff\xfe",
                        b"\xef\xbb\xbf",
                        b"\r\n",
                        b";",
                        b'"',
                        b",",
                        b"[" * 2000,
                        b"nan",
                        b"-1",
                        b"1e999",
                        b"9" * 5000,
                        b"null",
                        b"{}",
                        b"\t",
                        data[at:to] * 2,
                    ]
                ),
            )
        )
        data = data[:at] + added + data[to:]
    return data


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(NASTY)),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(st.text(max_size=5), below, max_size=3)),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, content: Any) -> Any:
    """A document with one entry, anywhere in it, removed, renamed or replaced by anything."""
    if not isinstance(content, dict | list) or not content or draw(st.integers(0, 3)) == 0:
        return draw(JSON)
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = draw(st.sampled_from(keys))
    copy = content.copy()
    what = draw(st.sampled_from(["inside", "inside", "inside", "remove", "rename"]))
    if what == "inside":
        copy[key] = draw(changed(content[key]))
    elif what == "remove" or isinstance(copy, list):
        del copy[key]
    else:
        copy[draw(st.text(max_size=5))] = copy.pop(key)
    return copy


def documents(good: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file with damaged bytes, or with another content."""
    as_text = changed(json.loads(good)).map(lambda content: json.dumps(content).encode())
    return st.one_of(damages(good), as_text)


def one_line_or_read(read: Callable[[Path], Any], path: Path, data: bytes) -> None:
    """A file is read, or refused in one line that names it."""
    path.write_bytes(data)
    try:
        read(path)
    except UserError as error:
        note(str(error))
        assert path.name in str(error) and "\n" not in str(error) and len(str(error)) < 1500


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("calibration") / "calibration.json"
    write_calibration(path, calibrate((case(i) for i in range(30)), CALIBRATED, "clean images", 0.1, 0.1, 0.2))
    return path.read_bytes()


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, bytes, bytes]:
    """A reference, its file, and a stream's."""
    folder = tmp_path_factory.mktemp("monitored")
    reference = Reference.of([image(i) for i in range(16)], MODEL, "clean images")
    write_reference(folder / "reference.json", reference)
    stream = Stream(reference, "d1")
    stream.add([image(i) for i in range(20, 26)])
    stream.write(folder / "stream.json")
    return reference, (folder / "reference.json").read_bytes(), (folder / "stream.json").read_bytes()


@examples(60, 3000)
def test_calibrations(count: int, calibration: bytes, tmp_path: Path) -> None:
    try_all(
        lambda data: one_line_or_read(read_calibration, tmp_path / "calibration.json", data),
        documents(calibration),
        count,
    )


@examples(40, 3000)
def test_references(count: int, monitored: tuple[Reference, bytes, bytes], tmp_path: Path) -> None:
    try_all(
        lambda data: one_line_or_read(read_reference, tmp_path / "reference.json", data),
        documents(monitored[1]),
        count,
    )


@examples(40, 3000)
def test_streams(count: int, monitored: tuple[Reference, bytes, bytes], tmp_path: Path) -> None:
    reference, _, good = monitored
    try_all(
        lambda data: one_line_or_read(Stream(reference, "d1").read, tmp_path / "stream.json", data),
        documents(good),
        count,
    )


@pytest.mark.parametrize(
    ("file", "strategy"),
    [("manifest.json", documents), ("results.csv", damages), ("inputs.csv", damages)],
    ids=lambda value: value if isinstance(value, str) else "",
)
@examples(50, 2000)
def test_sweeps(count: int, file: str, strategy: Callable[[bytes], Any], tmp_path: Path) -> None:
    """A report of a sweep whose file was damaged: it is made, or refused; the sweep's folder stays as it was."""
    sweep = write_sweep_output(tmp_path / "sweep", n_cases=3, pictures=False)
    path = sweep / file

    def check(data: bytes) -> None:
        path.write_bytes(data)
        others = sorted(one.name for one in sweep.iterdir())
        code, said = tried(["report", str(sweep), "-o", str(tmp_path / "new"), "--format", "json"])
        assert code in (0, 2) and (code == 0 or str(sweep) in said)
        assert sorted(one.name for one in sweep.iterdir()) == others and path.read_bytes() == data
        assert (tmp_path / "new" / "verdicts.json").is_file() == (code == 0)
        (tmp_path / "new" / "verdicts.json").unlink(missing_ok=True)

    try_all(check, strategy(path.read_bytes()), count)


# Studies.


@examples(150, 5000)
def test_studies(count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "_faults_of_conditions", config._check_conditions)  # in this process: it has torch
    good = example("smoke").read_bytes()
    as_yaml = changed(yaml.safe_load(good)).map(lambda content: yaml.safe_dump(content).encode())
    try_all(
        lambda data: one_line_or_read(load_study, tmp_path / "study.yaml", data),
        st.one_of(damages(good), as_yaml),
        count,
    )
