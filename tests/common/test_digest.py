"""Digests of files: pipes are not waited for."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nnunet_robust.common.digest import sha256


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        sha256(tmp_path / "pipe")
