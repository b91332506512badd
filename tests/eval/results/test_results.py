"""The files of results: rows that were cut off, disks that fill up, and tables that are long."""

from __future__ import annotations

import csv
import errno
import random
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.failures import Failure, combine_failures, record, recorded
from nnunet_robust.eval.results.manifest import Identity, open_manifest
from nnunet_robust.eval.results.parts import Part, combine
from nnunet_robust.eval.results.tables import Condition
from tests.common.power_cut import Recorder

COLUMNS = ("case", "perturbation", "level", "replicate", "label", "dice")
CLEAN, NOISE, MORE = Condition.clean(), Condition("noise", 0.1), Condition("noise", 0.25, 1)


def rows_of(condition: Condition, scale: float = 1.0) -> list[dict[str, object]]:
    return [
        {"case": 'a "quoted", case', "label": label, "dice": scale * (0.1 + condition.level + i)}
        for i, label in enumerate(("shell", "core"))
    ]


def written(path: Path) -> Part:
    part = Part(path, COLUMNS)
    for condition in (NOISE, CLEAN, MORE):
        part.add(condition, rows_of(condition))
    return part


def test_what_is_added_is_read_back(tmp_path: Path) -> None:
    part = written(tmp_path / "sub" / "part.csv")
    again = Part(part.path, COLUMNS)
    assert again.rows == part.rows and len(part.rows) == 3
    assert [(row["perturbation"], row["level"], row["label"]) for row in again.in_order()] == [
        ("clean", "0.0", "shell"), ("clean", "0.0", "core"), ("noise", "0.1", "shell"), ("noise", "0.1", "core"),
        ("noise", "0.25", "shell"), ("noise", "0.25", "core"),
    ]  # fmt: skip
    assert float(again.rows[NOISE][1]["dice"]) == 0.1 + 0.1 + 1


def test_wherever_it_was_cut_off_the_rest_is_whole_and_can_be_added(tmp_path: Path) -> None:
    content = written(tmp_path / "whole.csv").path.read_bytes()
    whole = Part(tmp_path / "whole.csv", COLUMNS)
    path = tmp_path / "cut.csv"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        cut = Part(path, COLUMNS)
        assert all(cut.rows[condition] == whole.rows[condition] for condition in cut.rows)
        for condition in (NOISE, CLEAN, MORE):
            if condition not in cut.rows:
                cut.add(condition, rows_of(condition))
        assert path.read_bytes() == content
        assert Part(path, COLUMNS).rows == whole.rows


def test_a_condition_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    part = written(tmp_path / "part.csv")
    part.add(NOISE, rows_of(NOISE, 2.0))
    again = Part(part.path, COLUMNS)
    assert again.rows == part.rows and float(again.rows[NOISE][0]["dice"]) == 0.4


def test_a_full_disk_leaves_no_half_row(tmp_path: Path, monkeypatch) -> None:
    part = written(tmp_path / "part.csv")
    before = part.path.read_bytes()
    full_disk(monkeypatch)
    with pytest.raises(OSError, match="No space"):
        part.add(Condition("noise", 0.5), rows_of(MORE))
    monkeypatch.undo()
    assert part.path.read_bytes() == before and Condition("noise", 0.5) not in part.rows
    part.add(Condition("noise", 0.5), rows_of(MORE))
    assert len(Part(part.path, COLUMNS).rows) == 4

    full_disk(monkeypatch)
    with pytest.raises(OSError, match="No space"):
        combine([part], COLUMNS, tmp_path / "table.csv")
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.csv"]


def full_disk(monkeypatch: pytest.MonkeyPatch, room: int = 40) -> None:
    """From now on files take `room` more characters, then none."""
    opened = Path.open

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.file.write(data[:room])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    def spy(self, mode="r", *arguments, **keywords):
        file = opened(self, mode, *arguments, **keywords)
        return file if mode in ("r", "rb") else Full(file)

    monkeypatch.setattr(Path, "open", spy)


def test_columns_of_another_version_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "part.csv")
    with pytest.raises(UserError, match="another version of this package"):
        Part(tmp_path / "part.csv", COLUMNS[:-1])


def test_many_rows_are_combined_a_part_at_a_time_and_in_order(tmp_path: Path) -> None:
    """100,000 rows: memory as for one part of them, whatever order they were computed in."""
    levels = [round(0.01 * i, 2) for i in range(1, 101)]
    shuffled = random.Random(0)
    for case in range(100):
        lines = [",".join((*COLUMNS, "rows"))]
        for level in shuffled.sample(levels, len(levels)):
            lines += [f"case_{case:03d},noise,{level},0,label_{i},{i / 10},10" for i in range(10)]
        (tmp_path / f"{case:03d}.csv").write_text("\n".join(lines) + "\n")
    table = tmp_path / "table.csv"
    living: weakref.WeakSet[Part] = weakref.WeakSet()
    most = 0

    def parts() -> Iterator[Part]:
        nonlocal most
        for case in range(100):
            part = Part(tmp_path / f"{case:03d}.csv", COLUMNS)
            living.add(part)
            most = max(most, len(living))
            yield part
            del part

    combine(parts(), COLUMNS, table)
    with table.open(newline="") as file:
        keys = [(row["case"], float(row["level"]), row["label"]) for row in csv.DictReader(file)]
    assert len(keys) == 100_000 and keys == sorted(keys)
    assert most <= 2


def test_a_case_that_could_not_be_read_may_be_mended(tmp_path: Path) -> None:
    path = tmp_path / "out" / "manifest.json"
    path.parent.mkdir()
    path.write_text('{"identity": {"seed": 1, "cases": {"a": "1", "b": null}}}')
    for digest in ("2", None):
        assert open_manifest(path, Identity(seed=1, cases={"a": "1", "b": digest}))
    for cases in ({"a": None, "b": None}, {"a": "3", "b": None}, {"a": "1"}, {"a": "1", "b": None, "c": "4"}):
        with pytest.raises(UserError, match="another sweep"):
            open_manifest(path, Identity(seed=1, cases=cases))


def test_failures_are_listed_until_they_succeed(tmp_path: Path) -> None:
    first, second = Failure("a", "noise", "0.1", "m", "too big, and so on"), Failure("b", "", "", "", "unreadable")
    record(tmp_path, "b", "", [second])
    record(tmp_path, "a", "noise", [first, first])
    assert combine_failures(tmp_path) == [first, second]
    assert (tmp_path / "failures.csv").read_text().splitlines() == [
        "case,perturbation,level,model,reason", 'a,noise,0.1,m,"too big, and so on"', "b,,,,unreadable",
    ]  # fmt: skip
    assert [str(f) for f in (first, second)] == ["a, noise 0.1, m: too big, and so on", "b: unreadable"]
    assert recorded(tmp_path, "a", "noise") and not recorded(tmp_path, "a", "blur")
    record(tmp_path, "a", "noise", [])
    record(tmp_path, "b", "", [])
    assert combine_failures(tmp_path) == [] and not (tmp_path / "failures.csv").exists()


def left_by_a_power_cut(folder: Path, write: Callable[[Path], None], patch: pytest.MonkeyPatch) -> list[bytes | None]:
    """What may be left of a part right after a write; None: nothing."""
    with patch.context() as watched:
        recorder = Recorder.watch(folder, watched)
        write(folder / "deep" / "part.csv")
        recorder.look()
    return [left.get("deep/part.csv") for left in recorder.leftovers(len(recorder.steps))]


def read_after(content: bytes | None, path: Path) -> Part:
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    return Part(path, COLUMNS)


def test_after_a_power_cut_flushed_rows_are_there_and_the_others_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, more = ([Condition("noise", level) for level in levels] for levels in ((0.1, 0.2), (0.3, 0.4, 0.5)))

    def write(path: Path) -> None:
        part = Part(path, COLUMNS)
        for condition in flushed:
            part.add(condition, rows_of(condition))
        Part.flush([part])
        for condition in more:
            part.add(condition, rows_of(condition))

    (tmp_path / "disk").mkdir()
    found = left_by_a_power_cut(tmp_path / "disk", write, monkeypatch)
    whole = Part(tmp_path / "disk" / "deep" / "part.csv", COLUMNS).rows
    assert len(found) > 4 and len(whole) == 5
    for content in found:
        again = read_after(content, tmp_path / "again.csv")
        assert again.rows.keys() >= set(flushed)
        assert all(again.rows[condition] == whole[condition] for condition in again.rows)
        for condition in more:  # computed once more
            if condition not in again.rows:
                again.add(condition, rows_of(condition))
        assert Part(again.path, COLUMNS).rows == whole


def test_rows_that_are_not_flushed_may_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    condition = Condition("noise", 0.1)
    found = left_by_a_power_cut(
        tmp_path, lambda path: Part(path, COLUMNS).add(condition, rows_of(condition)), monkeypatch
    )
    assert any(condition not in read_after(content, tmp_path / "again.csv").rows for content in found)


@pytest.mark.parametrize("garbage", [b"\0", b"\xff", b'"', b"\n", b",", b"x"])
def test_garbage_anywhere_costs_the_rows_from_there_on_and_nothing_else(garbage: bytes, tmp_path: Path) -> None:
    content = written(tmp_path / "whole.csv").path.read_bytes()
    whole = Part(tmp_path / "whole.csv", COLUMNS).rows
    header = content.index(b"\n") + 1
    for at in range(header, len(content), 7):
        spoilt = content[:at] + garbage * 8 + content[at + 8 :]
        found = read_after(spoilt, tmp_path / "spoilt.csv").rows
        untouched = (NOISE, CLEAN, MORE)[: (content[:at].count(b"\n") - 1) // 2]
        assert all(found[condition] == whole[condition] for condition in untouched)
        if garbage == b"\0":
            assert all(found[condition] == whole[condition] for condition in found)


@pytest.mark.parametrize("zeros", [3, 4096])
def test_a_header_of_zeros_is_no_header(zeros: int, tmp_path: Path) -> None:
    content = b"\0" * zeros + written(tmp_path / "whole.csv").path.read_bytes()[zeros:]
    again = read_after(content, tmp_path / "again.csv")
    assert not again.rows
    condition = Condition("noise", 0.1)
    again.add(condition, rows_of(condition))
    assert list(Part(again.path, COLUMNS).rows) == [condition]
