"""What this machine's memory does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_robust.common import memory
from nnunet_robust.common.errors import UserError
from nnunet_robust.common.memory import memory_available, memory_of_machine, require_memory


def test_what_fits_passes_and_what_does_not_is_told_with_both_numbers() -> None:
    there = memory_of_machine()
    assert there is not None and 10**8 < there < 10**14
    require_memory("--size 32", there, "take less")
    with pytest.raises(UserError, match=r"^--size 9 takes .*B of memory, and this machine has .*B: take less$"):
        require_memory("--size 9", there + 1, "take less")


@pytest.mark.parametrize(("says", "limit"), [("1000000\n", 1_000_000), ("max\n", None), ("9" * 19, None)])
def test_a_job_s_own_limit_counts(says: str, limit: int | None, tmp_path: Path, monkeypatch) -> None:
    machine = memory_of_machine()
    (tmp_path / "memory.max").write_text(says)
    monkeypatch.setattr(memory, "_CGROUP", (str(tmp_path / "memory.max"), str(tmp_path / "none")))
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}[name])
    assert memory_of_machine() == (limit or 4096 << 20) and machine


def test_what_is_free_is_less_than_all_and_files_at_hand_do_not_count(tmp_path: Path, monkeypatch) -> None:
    machine, free = memory_of_machine(), memory_available()
    assert machine is not None and free is not None and 0 <= free < machine
    (tmp_path / "max").write_text("10000\n")
    (tmp_path / "current").write_text("7000\n")
    (tmp_path / "stat").write_text("anon 5000\ninactive_file 1500\n")
    monkeypatch.setattr(memory, "_CGROUP", (str(tmp_path / "max"), str(tmp_path / "none")))
    used = (str(tmp_path / "current"), str(tmp_path / "stat"), "inactive_file")
    monkeypatch.setattr(memory, "_CGROUP_USED", (used, memory._CGROUP_USED[1]))
    assert memory_available() == 4500


def test_where_the_system_does_not_say_nothing_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_of_machine", lambda: None)
    require_memory("--size 9", 10**30, "take less")
