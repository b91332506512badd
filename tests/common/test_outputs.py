"""Outputs that cannot be written are refused in one line, and the check leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.outputs import require_file, require_folder
from tests.disks import read_only, small_disk


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["there", "new", "new/a/b", "link", "link/new", "n" * 230])
def test_folders_that_can_be_written_pass_and_are_not_made(name: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "results.csv").write_text("kept")
    (tmp_path / "link").symlink_to("there")
    before = everything(tmp_path)
    require_folder("-o", tmp_path / name)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["there.json", "new.json", "new/a.json", "link.json"])
def test_files_that_can_be_written_pass_and_stay_as_they_are(name: str, tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("kept")
    (tmp_path / "link.json").symlink_to("there.json")
    before = everything(tmp_path)
    require_file("--json", tmp_path / name)
    assert everything(tmp_path) == before and (tmp_path / "there.json").read_text() == "kept"


FAULTS = [
    ("file", "is a file: name a folder", "folder"),
    ("file/below", "a part of the path is no folder", "both"),
    ("folder", "is a folder: name a file", "file"),
    ("loop", "symbolic links lead round in a circle", "both"),
    ("loop/below", "symbolic links lead round in a circle", "both"),
    ("dangling", "is a link to nowhere, which is not there", "both"),
    ("dangling/below", "a part of the path is no folder", "both"),
    ("x" * 256, "the name is too long", "both"),
    ("x" * 250, "the name is too long", "file"),  # there is no room for the temporary file's name
    ("a/b/" + "x" * 300 + "/c", "the name is too long", "both"),
    ("p/" * 2100, "the name is too long", "folder"),
]


@pytest.mark.parametrize(
    ("name", "says", "require"),
    [
        (name, says, require)
        for name, says, which in FAULTS
        for require in (require_folder, require_file)
        if which in ("both", require.__name__.removeprefix("require_"))
    ],
)
def test_what_is_in_the_way_is_told(name: str, says: str, require: Callable[[str, Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = everything(tmp_path)
    with pytest.raises(UserError) as caught:
        require("-o", tmp_path / name)
    assert says in str(caught.value) and str(caught.value).startswith(f"-o {tmp_path}")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null", "/dev/stdout", "/dev/new", "/proc/new", "/proc/self/fd/1"])
def test_devices_are_no_files(path: str) -> None:
    with pytest.raises(UserError, match=r"is a device or pipe"):
        require_file("--json", Path(path))
    with pytest.raises(UserError, match=r"is a device or pipe"):
        require_folder("-o", Path(path))


def test_a_disk_that_can_only_be_read(tmp_path: Path) -> None:
    with read_only(tmp_path):
        for require, name in ((require_folder, ""), (require_folder, "new/a"), (require_file, "a.json")):
            with pytest.raises(UserError, match=r"can only be read|no right"):
                require("-o", tmp_path / name)
        with pytest.raises(UserError, match=r"cannot be written: .*: take my advice$"):
            require_folder("-o", tmp_path, "take my advice")


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path, "64k"):
        require_folder("-o", tmp_path)
        (tmp_path / "filled").write_bytes(bytes(64 << 10))
        for require, name in ((require_folder, ""), (require_folder, "new/a"), (require_file, "a.json")):
            with pytest.raises(UserError, match="no space is left on the disk: free some"):
                require("-o", tmp_path / name)
        assert everything(tmp_path) == ["filled"]


def test_processes_that_begin_together_do_not_take_the_folder_from_each_other(tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def begin() -> None:
        try:
            for at in range(50):
                require_folder("-o", tmp_path / f"out_{at}")
                (tmp_path / f"out_{at}").mkdir(exist_ok=True)
                (tmp_path / f"out_{at}" / threading.current_thread().name).touch()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and len(everything(tmp_path)) == 50 * 5


def test_a_folder_where_the_temporary_file_goes(tmp_path: Path) -> None:
    (tmp_path / ".tmp_new.json").mkdir()
    with pytest.raises(UserError, match=r"-o .*new\.json cannot be written: it is a folder"):
        require_file("-o", tmp_path / "new.json")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts something, and becomes another user")
@pytest.mark.parametrize("kind", ["mounted by itself", "somebody else's in a folder like /tmp"])
def test_a_file_that_cannot_be_replaced(kind: str, tmp_path: Path) -> None:
    """The folder takes new files, so that only the last step of the work would fail."""
    shared = tmp_path / "shared"
    shared.mkdir()
    target = shared / "target.json"
    target.write_text("kept")
    own = tmp_path / "own"
    own.write_text("")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    shared.chmod(0o1777)
    before = f"mount --bind {own} {target}" if kind == "mounted by itself" else "true"
    user = "" if kind == "mounted by itself" else "os.setuid(65534); "
    code = (
        f"import os; from pathlib import Path; from nnunet_robust.common.outputs import require_file; {user}"
        f"require_file('-o', Path({str(target)!r}))"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{before} && exec "{sys.executable}" -c "$1"', "sh", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 1 and f"UserError: -o {target} cannot be written: " in done.stderr
