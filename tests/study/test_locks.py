"""The folder of GPU locks in a folder that everybody writes to: of this user alone, or one line."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_robust.common.errors import UserError
from nnunet_robust.study.locks import gpu_slots, own_folder, try_lock

SOMEBODY = 65534
NAME = f"nnunet_robust_gpus_{os.getuid()}"


def test_it_is_made_for_this_user_alone_and_found_again(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = own_folder(tmp_path, NAME)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert own_folder(tmp_path, NAME) == folder


def other_users(path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a folder another user's")
    path.mkdir(mode=0o777)
    os.chown(path, SOMEBODY, SOMEBODY)


def writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


SQUATTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another user's folder": (other_users, f"belongs to another user (id {SOMEBODY})"),
    "a folder that all write to": (writable, "can be written to by other users"),
    "a file": (Path.touch, "is no folder"),
    "a link to a folder": (lambda path: path.symlink_to(path.parent), "is no folder"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "is no folder"),
    "a pipe": (os.mkfifo, "is no folder"),
}


@pytest.mark.parametrize("kind", SQUATTED)
def test_what_others_put_there_is_refused_in_a_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    squat, says = SQUATTED[kind]
    squat(tmp_path / NAME)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught, gpu_slots(1, 1):
        pytest.fail("it was taken")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path / NAME} {says}, ") and "TMPDIR" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lock_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="symbolic links"):
        try_lock(tmp_path / "lock")
    assert not (tmp_path / "theirs").exists()
