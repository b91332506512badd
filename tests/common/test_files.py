"""What is written, by a model of a disk that forgets what was not flushed: the old or the new, never a mix."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from nnunet_robust.common import files
from nnunet_robust.common.files import (
    atomic_file,
    atomic_path,
    flush_all,
    flush_to_disk,
    flush_tree,
    make_folder,
    replace_durably,
    write_atomically,
)
from tests.common.power_cut import Leftover, Recorder

OLD, NEW = b"old content\n", b"new content, longer than the old one\n"
Write = Callable[[Path], None]


def states(recorder: Recorder) -> Iterable[tuple[int, Leftover]]:
    recorder.look()
    for done in range(len(recorder.steps) + 1):
        for left in recorder.leftovers(done):
            yield done, left


def faults(write: Write, folder: Path, target: str, old: bytes | None, patch: pytest.MonkeyPatch) -> set[str]:
    """What goes wrong if the power goes at any moment of a write, or right after it."""
    if old is not None:
        (folder / target).write_bytes(old)
    with patch.context() as watched:
        recorder = Recorder.watch(folder, watched)
        write(folder / target)
        assert (folder / target).read_bytes() == NEW
    found = set()
    for done, left in states(recorder):
        if left.get(target) not in (old, NEW):
            found.add("a mix")
        if done == len(recorder.steps) and left.get(target) != NEW:
            found.add("lost")
    return found


def by_path(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(NEW)


def by_file(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(NEW.decode())


def shared(path: Path) -> None:
    with atomic_path(path, shared=True) as temporary:
        temporary.write_bytes(NEW[:5])
        with temporary.open("ab") as file:
            file.write(NEW[5:])


def replaced(path: Path) -> None:
    temporary = path.with_name(f"{path.name}.tmp")  # as of a checkpoint
    temporary.write_bytes(NEW)
    replace_durably(temporary, path)


WRITERS: list[Write] = [by_path, by_file, shared, replaced, lambda path: write_atomically(path, NEW)]


@pytest.mark.parametrize("old", [OLD, None])
@pytest.mark.parametrize("write", WRITERS)
def test_the_old_or_the_new_file(
    write: Write, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not faults(write, tmp_path, "file.csv", old, monkeypatch)


@pytest.mark.parametrize("old", [OLD, None])
def test_folders_that_were_made_for_it_are_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: Any) -> None:
    del old
    assert not faults(by_path, tmp_path, "a/b/file.csv", None, monkeypatch)


def first_renamed(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)  # noqa: PTH105
    flush_to_disk(path)
    flush_to_disk(path.parent)


def in_place(path: Path) -> None:
    path.write_bytes(NEW)
    flush_to_disk(path)
    flush_to_disk(path.parent)


def without(kind: str) -> Callable[[Path], None]:
    """`flush_to_disk` that leaves out files, or folders."""
    return lambda path: None if path.is_dir() == (kind == "folder") else flush_to_disk(path)


BROKEN: dict[str, tuple[dict[str, Any], str, Write, bytes | None, set[str]]] = {
    "no fsync of the file": ({"flush_to_disk": without("file")}, "file", by_path, OLD, {"a mix", "lost"}),
    "no fsync of the folder": ({"flush_to_disk": without("folder")}, "file", by_path, OLD, {"lost"}),
    "none at all": ({"flush_to_disk": lambda path: None}, "file", by_path, OLD, {"a mix", "lost"}),
    "renamed before it is flushed": ({"replace_durably": first_renamed}, "file", by_path, OLD, {"a mix"}),
    "written in place": ({}, "file", in_place, OLD, {"a mix"}),
    "new folders not flushed": (
        {"make_folder": lambda folder: folder.mkdir(parents=True, exist_ok=True)}, "a/b/file", by_path, None, {"lost"},
    ),
    "only the innermost flushed": (
        {"make_folder": lambda folder: (folder.mkdir(parents=True), flush_to_disk(folder.parent))},
        "a/b/file", by_path, None, {"lost"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutant", BROKEN)
def test_each_step_that_is_left_out_is_found(mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, target, write, old, expected = BROKEN[mutant]
    for name, other in changed.items():
        monkeypatch.setattr(files, name, other)
    assert faults(write, tmp_path, target, old, monkeypatch) == expected


def test_a_tree_that_is_renamed_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {f"done/{name}": name.encode() for name in ("dataset.json", "imagesTr/a.png", "labelsTr/a.png")}
    recorder = Recorder.watch(tmp_path, monkeypatch)
    for name in whole:
        path = tmp_path / name.replace("done", "partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole[name])
    written = len(recorder.steps)
    flush_tree(tmp_path / "partial")
    os.rename(tmp_path / "partial", tmp_path / "done")  # noqa: PTH104
    flush_to_disk(tmp_path)
    recorder.look()
    for done in range(written, len(recorder.steps) + 1):
        for left in recorder.leftovers(done):
            found = {name: content for name, content in left.items() if name.startswith("done")}
            assert found in ({}, whole)
            assert found or done < len(recorder.steps)


# --- without a power cut


def test_a_fault_while_writing_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", OLD)
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_bytes(NEW)
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == OLD


def test_a_disk_that_fails_to_flush_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", OLD)

    def full(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "file", NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == OLD


def test_a_file_system_that_cannot_flush_folders_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def picky(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", picky)
    write_atomically(tmp_path / "a" / "file", NEW)
    assert (tmp_path / "a" / "file").read_bytes() == NEW


def test_a_link_in_place_of_the_temporary_file_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(OLD)
    (tmp_path / ".tmp_file").symlink_to("theirs")
    write_atomically(tmp_path / "file", NEW)
    assert (tmp_path / "theirs").read_bytes() == OLD and (tmp_path / "file").read_bytes() == NEW
    assert not (tmp_path / "file").is_symlink()


def test_many_are_flushed_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "many" / "below")
    for number in range(100):
        (tmp_path / "many" / "below" / str(number)).write_bytes(NEW)
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    flush_tree(tmp_path / "many")
    inodes = [path.stat().st_ino for path in [tmp_path / "many", *(tmp_path / "many").rglob("*")]]
    assert sorted(flushed) == sorted(inodes) and len(inodes) == 102
    flush_all([])
