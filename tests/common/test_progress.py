"""Progress: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_robust.common import progress as module
from nnunet_robust.common.console import bar
from nnunet_robust.common.progress import Progress, Rate, ended_progress

LINE = re.compile(
    r"measuring: \d+ of \d+ \(\d+ %\)(, \S+ a (second|minute|hour))?, \d+:\d\d:\d\d passed, .* left(, .*)?"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.2)


def test_lines_without_a_terminal(quick: None, capsys, tmp_path: Path) -> None:
    log = tmp_path / "progress.log"
    with Progress("measuring", log) as progress:
        progress.start(4)
        for number in range(4):
            time.sleep(0.15)
            progress.step(f"case\x1b[{number}")
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 6 and all(LINE.fullmatch(line) and line.isprintable() for line in lines)
    assert lines[0].startswith("measuring: 0 of 4") and "not known how long left" in lines[0]
    assert lines[-1].startswith("measuring: 4 of 4 (100 %), ") and lines[-1].endswith("0:00:00 left, case?[3")
    noted = log.read_text().splitlines()
    assert [line.partition("measuring")[2] for line in noted][-1] == lines[-1].partition("measuring")[2]
    assert all(re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \S+ {os.getpid()} ", line) for line in noted)


def test_short_work_has_one_line(capsys) -> None:
    assert list(bar("measuring")([1, 2, 3])) == [1, 2, 3]
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == ["measuring: 3 of 3 (100 %)"]


def test_what_is_broken_off_has_no_last_line_but_in_the_log(capsys, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ended_progress(), Progress("measuring", tmp_path / "log") as progress:
        progress.start(2)
        progress.step()
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""
    assert (tmp_path / "log").read_text().endswith("left, stopped\n")


def test_a_loop_that_an_error_leaves_is_ended(capsys) -> None:
    items = iter(bar("measuring")(range(3)))
    with pytest.raises(ZeroDivisionError), ended_progress():
        next(items)
        raise ZeroDivisionError
    assert capsys.readouterr().err == "" and not module._shown


def test_the_first_one_loads_what_all_use_and_does_not_count() -> None:
    assert Rate(3, 11, 100.0, 2.0).left == 16.0
    progress = Progress("measuring")
    progress.start(11)
    progress._began -= 50
    progress.step()
    assert progress.rate.each is not None and progress.rate.each >= 50
    progress._first = progress._last = time.monotonic() - 4
    progress.step()
    progress.step()
    assert progress.rate.each == pytest.approx(2, abs=0.2)


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    with Progress("measuring", tmp_path / "nowhere" / "log") as progress:
        progress.start(1)
        progress.step()
    assert not list(tmp_path.iterdir())
    with Progress("measuring", Path("/dev/full")) as progress:
        progress.start(1)
        progress.step()


@pytest.mark.parametrize(("term", "is_bar"), [("xterm", True), ("dumb", False)])
def test_on_a_terminal_it_is_a_bar_whose_columns_have_names(term: str, is_bar: bool) -> None:
    code = "import time; from nnunet_robust.common.console import bar\n"
    code += "for _ in bar('measuring')(range(3)): time.sleep(0.3)"
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "120"}
    done = subprocess.Popen([sys.executable, "-c", code], stderr=child, env=environment)
    os.close(child)
    shown = b""
    while True:
        try:
            found = os.read(parent, 4096)
        except OSError:
            break
        if not found:
            break
        shown += found
    done.wait()
    text = shown.decode()
    assert ("\x1b[" in text) is is_bar
    assert re.search(r"measuring: 2 of 3 \(66 %\), \S+ a second, 0:00:01 passed, 0:00:00 left", text) or not is_bar
    assert "measuring: 3 of 3 (100 %)" in text
