"""Signals to end: one exception, nothing disturbs the clearing up, and what was ignored stays so."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nnunet_robust.common.interrupts import Stopped, deaf_children, stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_ends_and_further_ones_do_not_disturb(number: int) -> None:
    before = signal.getsignal(number)
    cleared = False
    with pytest.raises(Stopped) as stopped, stoppable():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            cleared = True
    assert cleared and stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_it_does_nothing() -> None:
    def inside() -> None:
        with stoppable(), deaf_children():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[object] = []
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_forked_process_ends_as_usual_and_says_nothing() -> None:
    code = (
        "import os, signal, sys, time\nfrom nnunet_robust.common.interrupts import stoppable\n"
        "with stoppable():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL\n"
        "        time.sleep(60)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    print(os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{int(signal.SIGTERM)}\n", "")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_pools_of_nnunet_s_end() -> None:
    """Their workers are forked, and told to end by SIGTERM while they wait for a lock."""
    for _ in range(20):
        with stoppable(), multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]


def test_processes_that_are_started_deaf_survive_ctrl_c() -> None:
    with deaf_children():
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"], stdout=-1
        )
    assert child.stdout is not None and child.stdout.readline() == b"up\n"
    child.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert child.poll() is None
    child.kill()
    child.wait()
