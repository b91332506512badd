"""Claims and shards: nobody's unit is taken, and what the dead leave behind is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nnunet_robust.common import processes
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.images.cases import CaseFiles
from nnunet_robust.eval.results.tables import Condition
from nnunet_robust.eval.sweep import units
from nnunet_robust.eval.sweep.units import ClaimLostError, Claims, Unit, shard


def unit(case: str = "case", perturbation: str = "gaussian_noise") -> Unit:
    files = CaseFiles(case, case, (Path("image"),), Path("label"))
    return Unit(case, perturbation, ((Condition(perturbation, 0.1), files),))


def claim_of(output: Path, **content: object) -> Path:
    path = output / "claims" / "gaussian_noise" / "case"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content) if content else "")
    return path


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_unit_is_one_claim(tmp_path: Path) -> None:
    with Claims(tmp_path) as ours, Claims(tmp_path) as theirs:
        assert ours.take(unit())
        assert not theirs.take(unit())  # this process lives
        assert theirs.take(unit("other")) and theirs.take(unit(perturbation="blur"))
        ours.check(unit())
        ours.release(unit())
        assert theirs.take(unit())
    assert not (tmp_path / "claims").exists()


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    claims = [Claims(tmp_path) for _ in range(16)]
    barrier = threading.Barrier(len(claims))
    got: list[int] = []

    def take(number: int) -> None:
        barrier.wait()
        if claims[number].take(unit()):
            got.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(len(claims))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_dead_process_of_this_machine_loses_its_claim_at_once(tmp_path: Path) -> None:
    claim_of(tmp_path, host=processes.host(), pid=dead_pid(), started="1")
    with Claims(tmp_path) as claims:
        assert claims.take(unit())
        claims.check(unit())


def test_claims_of_the_dead_on_finished_units_are_cleared_up(tmp_path: Path) -> None:
    path = claim_of(tmp_path, host=processes.host(), pid=dead_pid(), started="1")
    elsewhere = path.with_name("other")
    elsewhere.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": ""}))
    with Claims(tmp_path):
        pass
    assert not path.exists() and elsewhere.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_id_that_was_given_out_again_is_another_process(tmp_path: Path) -> None:
    claim_of(tmp_path, host=processes.host(), pid=os.getpid(), started="1")  # this one began later
    with Claims(tmp_path) as claims:
        assert claims.take(unit())


def test_another_machine_loses_its_claim_when_its_heart_stands_still(tmp_path: Path) -> None:
    path = claim_of(tmp_path, host="elsewhere", pid=1, started="")
    os.utime(path, (1, 1))  # what its clock says does not matter
    with Claims(tmp_path, stale_seconds=0.2) as claims:
        assert not claims.take(unit())
        time.sleep(0.15)
        os.utime(path)  # a beat
        assert not claims.take(unit())
        time.sleep(0.15)
        assert not claims.take(unit())
        time.sleep(0.15)
        assert claims.take(unit())


def test_an_empty_claim_is_taken_over_in_the_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(units, "_EMPTY_SECONDS", 0.1)
    claim_of(tmp_path)
    with Claims(tmp_path) as claims:
        assert not claims.take(unit())
        time.sleep(0.15)
        assert claims.take(unit())


def test_claims_beat_and_a_lost_one_is_noticed(tmp_path: Path) -> None:
    with Claims(tmp_path, beat_seconds=0.02) as claims:
        assert claims.take(unit())
        path = tmp_path / "claims" / "gaussian_noise" / "case"
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        path.write_text(json.dumps({"host": "elsewhere"}))
        with pytest.raises(ClaimLostError):
            claims.check(unit())
        claims.release(unit())
    assert path.exists()  # it is another's now


def test_shards_are_all_units_once() -> None:
    everything = [unit(str(number)) for number in range(7)]
    shards = [shard(everything, f"{i}/3") for i in (1, 2, 3)]
    assert [len(part) for part in shards] == [3, 2, 2]
    assert sorted(u.case for part in shards for u in part) == [u.case for u in everything]
    assert [u.case for u in shards[1]] == ["1", "4"]
    assert shard(everything, None) == everything


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=f"--shard {text}: give which of how many"):
        shard([], text)


def test_folders_that_vanish_while_claims_are_cleared_up(tmp_path: Path, monkeypatch) -> None:
    """Another process clears up at the same time: what one has just listed is gone when it looks inside."""
    gone = tmp_path / "claims" / "noise"
    real = os.scandir

    def scandir(path):
        if Path(path) == gone and gone.is_dir():
            gone.rmdir()
        return real(path)

    with Claims(tmp_path) as claims:
        assert claims.take(unit())
        gone.mkdir()
        monkeypatch.setattr(os, "scandir", scandir)
    assert not (tmp_path / "claims").exists()
