"""Files that are no study: each is one line with file and line, at once; and what people do write works."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.study.config import load_study
from nnunet_robust.study.document import Document
from nnunet_robust.study.plain_yaml import MOST_BYTES, MOST_VALUES

STUDY = """\
study: name
datasets:
  - { id: 901, synthesize: textures }
trainers: [nnUNetTrainer]
"""


def laughs(levels: int) -> str:
    """Each line stands for ten times the one before."""
    lines = ["x0: &x0 [lol]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int) -> str:
    lines = ["x0: &x0 {a: 1}"]
    lines += [f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


# Name -> the file's bytes, the line of the fault (None: of no line), a part of what is said.
FILES: dict[str, tuple[bytes | str, int | None, str]] = {
    "alias bomb": (STUDY + laughs(9), 9, "each alias counted as often as used"),
    "bomb of merges": (STUDY + merges(9), 9, "each alias counted"),
    "list that holds itself": (STUDY + "folds: &a [*a]\n", 5, "*a is inside of what it stands for"),
    "mapping that holds itself": (STUDY + "resources: &a\n  train: *a\n", 6, "*a is inside of"),
    "mapping that merges itself": (STUDY + "resources: &a\n  <<: *a\n", 6, "*a is inside of"),
    "lists in lists": (STUDY + "folds: " + "[" * 10_000 + "]" * 10_000, 5, "inside one another"),
    "lists in lists, in lines": ("[\n" * 10_000, 21, "inside one another"),
    "mappings in mappings": ("\n".join(f"{' ' * n}a:" for n in range(900)), 20, "inside one another"),
    "depth through an alias": (
        STUDY + f"a: &a {'[' * 12}{']' * 12}\nb: {'[' * 12}*a{']' * 12}\n", 6, "inside one another"),
    "python object": (STUDY + "folds: !!python/object/apply:os.system ['touch owned']\n", 5, "the tag !!python/object"),
    "python name": (STUDY + "device: !!python/name:os.system\n", 5, "the tag !!python/name:os.system"),
    "binary": (STUDY + "device: !!binary aGVsbG8=\n", 5, "the tag !!binary"),
    "set": (STUDY + "resources: !!set {train}\n", 5, "the tag !!set"),
    "unknown tag": (STUDY + "device: !mine cpu\n", 5, "the tag !mine"),
    "timestamp": (STUDY + "device: !!timestamp 2024-02-31\n", 5, "the tag !!timestamp"),
    "escape": (STUDY + 'device: "c\\x1bpu"\n', 5, "U+001B"),
    "escaped line end": (STUDY + 'device: "cpu\\n"\n', 5, "U+000A"),
    "half a character": (STUDY + 'device: "\\ud800"\n', 5, "U+D800"),
    "character that there is not": (STUDY + 'device: "\\UFFFFFFFF"\n', 5, "not YAML"),
    "block with a line end": ("study: |\n  name\n", 1, "U+000A"),
    "name that ends in a line": (STUDY.replace("study: name", 'study: "name\\n"'), 1, "U+000A"),
    "control character": (STUDY + "device: c\x07pu\n", 5, "U+0007"),
    "NUL": (STUDY + "device: \x00\n", 5, "U+0000"),
    "list as a key": (STUDY + "? [a, b]\n: c\n", 5, "a key is a text"),
    "mapping as a key": (STUDY + "{a: b}: c\n", 5, "a key is a text"),
    "number as a key": (STUDY + "1: c\n", 5, "the key '1' is read as a number: write it in quotes"),
    "yes as a key": (STUDY + "yes: c\n", 5, "the key 'yes' is read as true or false"),
    "no key": (STUDY + "~: c\n", 5, "the key '~' is read as nothing"),
    "key twice": (STUDY + "folds: [0]\nfolds: [1]\n", 6, "'folds' is there twice"),
    "merge of a text": (STUDY + "resources: {<<: train}\n", 5, "not YAML"),
    "merge twice": (STUDY + "resources: {<<: {}, <<: {}}\n", 5, "'<<' is there twice"),
    "date that does not exist": (STUDY + "retries: 2024-02-31\n", 5, "retries must be a whole number, got 2024-02-31"),
    "number of 5000 digits": (STUDY + f"retries: {'9' * 5000}\n", 5, "of 5000 characters"),
    "number of 4000 digits": (STUDY + f"seeds: [{'9' * 4000}]\n", 5, "a number of 4000 characters"),
    "number of 25 digits": (STUDY + f"seeds: [{'9' * 25}]\n", 5, "must be at most 4294967295"),
    "infinite": (STUDY + "resources: {train: {hours: .inf}}\n", 5, ".inf is not a finite number"),
    "not a number": (STUDY + "resources: {train: {hours: .nan}}\n", 5, ".nan is not a finite number"),
    "nearly infinite": (STUDY + "resources: {train: {hours: 1.0e+999}}\n", 5, "1.0e+999 is not a finite number"),
    "base 60": (STUDY + "resources: {train: {hours: 24:00}}\n", 5, "base 60"),
    "whole number with a point": (STUDY.replace("901", "901.0"), 3, "datasets[0].id must be a whole number"),
    "boolean as a number": (STUDY + "retries: true\n", 5, "retries must be a whole number, got true"),
    "two documents": (STUDY + "---\n" + STUDY, 5, "not YAML"),
    "undefined alias": (STUDY + "folds: *nothing\n", 5, "undefined alias"),
    "version": (f"%YAML {'9' * 5000}.1\n---\n{STUDY}", 1, "not YAML"),
    "tab": (STUDY + "\tdevice: cpu\n", 5, "not YAML"),
    "empty": ("", None, "holds no study"),
    "comments only": ("# study\n", None, "holds no study"),
    "a list": ("- a\n", None, "holds no study"),
    "UTF-16": (STUDY.encode("utf-16"), 1, "UTF-16: save it as UTF-8"),
    "Latin-1": (STUDY.encode() + "name: Köln\n".encode("latin-1"), 5, "byte 0xf6 is not UTF-8"),
    "binary file": (bytes(range(256)) * 40, 2, "byte 0x80 is not UTF-8"),
    "100 MB": (b"#" * 99 + b"\n", 1, f"more than {MOST_BYTES} bytes"),
    "a megabyte of values": (STUDY + "folds: [" + "0," * 400_000 + "]", 5, f"more than {MOST_VALUES} values"),
    "a long text": (STUDY + f"device: {'c' * 500_000}\n", 5, "a text of 500000 characters"),
    "a long key": (STUDY + f"{'c' * 1000}: 1\n", 5, "there is no 'ccc"),
    "a name of 300 letters": (STUDY.replace("study: name", f"study: {'n' * 300}"), 1, "at most 100 characters"),
    "a million trainers": (
        STUDY + f"seeds: {list(range(1000))}\npatch_sizes: {list(range(1, 1001))}\n", 4, "1000000 trainers"),
    "a million trainings": (
        STUDY + f"seeds: {list(range(1000))}\nfolds: {list(range(1000))}\n", 4, "1000000 trainings"),
    "a planner that is an option": (STUDY + "planners: [{planner: --help, plans: a}]\n", 5, "must be of the form"),
    "plans outside": (STUDY + "planners: [{planner: a, plans: ../../a}]\n", 5, "must be of the form"),
    "a queue that is a command": (STUDY + "resources: {partition: 'a; touch owned'}\n", 5, "must be of the form"),
    "a variable that runs code": (STUDY + "environment: {LD_PRELOAD: ./a.so}\n", 5, "a study does not set LD_PRELOAD"),
    "a folder of trainers": (STUDY + "environment: {nnUNet_extTrainer: .}\n", 5, "does not set nnUNet_extTrainer"),
    "a variable's name with a line": (STUDY + 'environment: {"A\\n": 1}\n', 5, "U+000A"),
    "a user that there is not": (
        STUDY.replace("synthesize: textures", "convert: busi, source: ~nobody-here/a"), 3, "is no path here"),
    "a path of 3000 letters": (
        STUDY.replace("synthesize: textures", f"convert: busi, source: {'a' * 3000}"), 3, "there is no folder"),
}  # fmt: skip


def _write(folder: Path, content: bytes | str, name: str) -> Path:
    path = folder / "study.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    if name == "100 MB":
        os.truncate(path, 100_000_000)
    return path


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_study_is_one_line_at_once(name: str, tmp_path: Path, capsys, monkeypatch) -> None:
    content, line, says = FILES[name]
    path = _write(tmp_path, content, name)
    monkeypatch.chdir(tmp_path)
    began = time.process_time()
    code = main(["study", "run", str(path), "--dry-run"])
    took = time.process_time() - began
    printed = capsys.readouterr()
    where = f"error: {path}" + ("" if line is None else f", line {line}: ")
    assert code == 2 and printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.startswith(where) and says in printed.err, printed.err[:500]
    assert len(printed.err) < len(str(path)) + 3300 and not re.search(r"[\x00-\x09\x0b-\x1f]", printed.err)
    assert took < 1.5  # a second, and a slow machine
    assert [entry.name for entry in tmp_path.iterdir()] == ["study.yaml"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "nothing"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)  # nobody writes to it: reading would wait for ever
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(UserError, match="cannot read the study"):
        load_study(path)


def test_anchors_and_merges_are_read_as_people_write_them(tmp_path: Path) -> None:
    text = """\
study: name
datasets:
  - &first { id: 901, synthesize: textures, parameters: &p { cases: 10, seed: 1 } }
  - { <<: *first, id: 902, parameters: { <<: *p, seed: 2 } }
trainers:
  - &t nnUNetTrainerNoSkip
  - { trainer: *t, seeds: &s [1, 2] }
seeds: *s
patch_sizes: [!!str 64]
resources: { train: &r { hours: 2 }, sweep: *r, plan: { <<: [{ cpus: 3 }, *r] } }
"""
    with pytest.raises(UserError, match=r"line 7: .*twice"):
        load_study(_write(tmp_path, text, ""))
    study = load_study(
        _write(tmp_path, "\ufeff" + text.replace("  - &t nnUNetTrainerNoSkip\n", "").replace("*t", "nnUNetTrainer"), "")
    )
    assert [dataset.parameters for dataset in study.datasets] == [{"cases": 10, "seed": 1}, {"cases": 10, "seed": 2}]
    assert study.trainers == ("nnUNetTrainer_ps64_seed1", "nnUNetTrainer_ps64_seed2")
    assert [study.resources[stage].hours for stage in ("train", "sweep", "plan")] == [2, 2, 2]
    assert study.resources["plan"].cpus == 3


def test_a_fault_in_what_is_merged_is_told_with_its_own_line(tmp_path: Path) -> None:
    text = STUDY + "resources:\n  train: &r\n    hours: 2\n    cpus: none\n  sweep:\n    <<: *r\n    cpus: 2\n"
    with pytest.raises(UserError, match=r"line 8: resources\.train\.cpus must be"):
        load_study(_write(tmp_path, text, ""))


def test_dates_are_texts_and_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    study = load_study(_write(tmp_path, STUDY.replace("name", "2024-02-31").replace("\n", "\r\n"), ""))
    assert study.name == "2024-02-31"


def test_the_largest_file_that_is_read_takes_a_second(tmp_path: Path) -> None:
    text = STUDY + "folds: [" + ", ".join(map(str, range(MOST_VALUES - 20))) + "]\n" + "#" * 900_000
    path = _write(tmp_path, text, "")
    began = time.process_time()
    assert len(Document(path).data["folds"]) == MOST_VALUES - 20
    assert time.process_time() - began < 4
