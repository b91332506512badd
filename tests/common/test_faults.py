"""Faults of the machine in words."""

from __future__ import annotations

import errno
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from nnunet_robust.common.errors import shortened
from nnunet_robust.common.faults import _ADVICE, in_words, reason
from nnunet_robust.common.files import write_atomically
from tests.disks import small_disk


def test_every_advice_is_of_an_error_that_there_is() -> None:
    assert set(_ADVICE) <= set(errno.errorcode.values())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE, errno.EXDEV])
def test_a_file_s_fault_has_its_path_why_and_what_to_do(number: int) -> None:
    line = in_words(OSError(number, "Some words of the system", "a/b.csv"))
    assert line is not None and line.startswith("a/b.csv: ") and line.count(": ") >= 2
    assert "Errno" not in line


def test_of_two_paths_the_second_is_the_one_to_write() -> None:
    assert str(in_words(OSError(errno.ENOSPC, "", "from", None, "to"))).startswith("to: no space")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError("Unable to allocate 7.45 TiB for an array"), "unable to allocate 7.45 TiB"),
        (MemoryError(), "not enough memory: take smaller"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), "not enough memory"),
        (BrokenProcessPool("A process was terminated abruptly"), "ended from outside"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "save the file as UTF-8"),
        (RecursionError("maximum recursion depth"), "nested too deeply"),
        (RuntimeError("Symlink loop from '/a'"), "remove the link"),
        (OSError("no number, as of some readers"), "no number"),
        (ImportError("No module named 'x'"), "nnunet-robust doctor"),
    ],
)
def test_other_faults(error: Exception, says: str) -> None:
    assert says in str(in_words(error))


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("dice"), ZeroDivisionError(), ValueError()])
def test_what_is_no_fault_of_the_machine_has_no_such_words(error: Exception) -> None:
    assert in_words(error) is None


def test_a_full_disk_names_the_file_which_stays_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path, "128k"):
        (tmp_path / "page.html").write_text("old")
        with pytest.raises(OSError) as caught:
            write_atomically(tmp_path / "page.html", bytes(200 << 10))
        assert str(in_words(caught.value)).startswith(f"{tmp_path / 'page.html'}: {reason(caught.value)}")
        assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
        assert (tmp_path / "page.html").read_text() == "old"


def test_messages_are_one_line_of_words_that_can_be_read() -> None:
    assert shortened("a\nb\x1b[2Jc\u2028d") == "a\\nb\\x1b[2Jc\\u2028d"
    assert shortened("x" * 400) == "x" * 400
    assert shortened("9" * 401) == "9" * 40 + "... (401 characters)"
