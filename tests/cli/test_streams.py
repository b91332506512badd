"""Where nobody reads what is printed the work is done all the same, without a word on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "nnunet_robust.cli.main"]

LOUD = """
from nnunet_robust.cli.streams import lasting_streams
with lasting_streams() as fault:
    print('x' * 10**6)
    print(fault())
"""
NUMBER = """
from nnunet_robust.cli.streams import lasting_streams
with lasting_streams(), open('n', 'w') as file:
    file.write(str(file.fileno()))
"""


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in a folder; `$RUN` is our command."""
    variables = {**os.environ, "RUN": " ".join(COMMAND), **environment}
    script = f"set -o pipefail; {line}"
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "redirection", ["| head -c0", "| true", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2> /dev/full", "> /dev/null"]
)
def test_the_work_is_done_though_nobody_reads(redirection: str, tmp_path: Path) -> None:
    done = shell(f"$RUN study init smoke {redirection}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "smoke.yaml").read_text().startswith("#")


def test_a_full_disk_under_what_is_printed_is_told(tmp_path: Path) -> None:
    done = shell("$RUN study init smoke > /dev/full", tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: what is printed cannot be written: no space is left")
    assert done.stderr.count("\n") == 1 and (tmp_path / "smoke.yaml").is_file()


def test_more_than_a_pipe_holds(tmp_path: Path) -> None:
    done = shell(f'{sys.executable} -c "{LOUD}" | head -c 10', tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "x" * 10)


@pytest.mark.parametrize("line", ["--help", "--version", "trainers", "perturbations", "report nowhere"])
def test_every_kind_of_printing(line: str, tmp_path: Path) -> None:
    done = shell(f"$RUN {line} | head -c0", tmp_path)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.returncode == (2 if line == "report nowhere" else 0)


def test_a_terminal_that_lacks_letters(tmp_path: Path) -> None:
    done = shell("$RUN trainers; $RUN report 'größe'", tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")


def test_the_first_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    shell(f'{sys.executable} -c "{NUMBER}" <&- >&- 2>&-', tmp_path)
    assert int((tmp_path / "n").read_text()) > 2


def test_a_slow_reader_of_a_pipe_that_does_not_wait_gets_all(tmp_path: Path) -> None:
    done = shell(f'{sys.executable} -c "import os; os.set_blocking(1, False){LOUD}" | (sleep 2; wc -c)', tmp_path)
    assert done.stderr == "" and int(done.stdout) == 10**6 + len("\nNone\n")
