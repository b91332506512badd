"""How long do measures hold Python's lock, so that threads stand in each other's way, and processes would do better?

    python benchmarks/threads.py [--cases NAME ...] [--rounds N]

A thread of C, which never takes the lock, looks every 50 microseconds whether anybody has it, while one thread computes
surface distances or texture divergence. N threads together are held up as soon as N times that share comes near 1.
Shares are medians of rounds, CPU times of one measure. Cases are those of `benchmarks/metrics.py`. Needs a C compiler,
and CPython 3.10 or 3.11, in which one variable says who has the lock.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from metrics import CASES, TOLERANCE_MM, Case, predicted

from nnunet_robust.common.seeding import numpy_generator
from nnunet_robust.eval.images.complexity import SWEEP_SLICES, ComplexityMeter
from nnunet_robust.eval.metrics.metrics import Reference

SAMPLER = """
#include <time.h>
extern void *_PyThreadState_UncheckedGet(void);
volatile int stopped;
long held, looks;
void sample(void) {
    struct timespec pause = {0, 50000};
    for (held = looks = 0; !stopped; looks++) {
        nanosleep(&pause, 0);
        if (_PyThreadState_UncheckedGet()) held++;
    }
}
"""


def compiled(folder: Path) -> ctypes.CDLL:
    (folder / "sampler.c").write_text(SAMPLER)
    library = folder / "sampler.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(folder / "sampler.c")], check=True)
    return ctypes.CDLL(str(library))


def held(sampler: ctypes.CDLL, work: Callable[[], object]) -> tuple[float, float]:
    """The share of the time in which a thread has Python's lock, and its CPU seconds."""
    stopped, has, looks = (kind.in_dll(sampler, name) for kind, name in _VARIABLES)
    stopped.value = 0
    thread = threading.Thread(target=sampler.sample)
    thread.start()
    began = time.thread_time()
    work()
    seconds = time.thread_time() - began
    stopped.value = 1
    thread.join()
    return has.value / max(1, looks.value), seconds


_VARIABLES = ((ctypes.c_int, "stopped"), (ctypes.c_long, "held"), (ctypes.c_long, "looks"))


def works(case: Case) -> dict[str, tuple[int, Callable[[], object]]]:
    """What is measured of a case, and how often, so that it lasts."""
    label, regions, spacing = case
    often = max(1, 4_000_000 // label.size)
    reference = Reference(label, regions, spacing, TOLERANCE_MM)
    image = numpy_generator("image").normal(100 * (label > 0), 20).astype(np.float32)[None]
    meter = ComplexityMeter(image, label, {"foreground": list(regions.values())}, spacing, max_slices=SWEEP_SLICES)
    near, scattered = (predicted(label, kind, 0) for kind in ("near", "scattered"))
    return {
        "surface, near": (often, lambda: [reference.compare(near) for _ in range(often)]),
        "surface, scattered": (often, lambda: [reference.compare(scattered) for _ in range(often)]),
        "texture": (often, lambda: [meter.measure(image) for _ in range(often)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 12):
        sys.exit("needs CPython 3.10 or 3.11")
    print(f"{'case':<12} {'work':<19} {'CPU ms':>8}  holds Python's lock")
    with tempfile.TemporaryDirectory() as folder:
        sampler = compiled(Path(folder))
        for name in arguments.cases:
            case = CASES[name]()
            if case is None:
                print(f"{name:<12} left out: no data")
                continue
            for work, (often, measure) in works(case).items():
                measure()  # what is made once
                rounds = [held(sampler, measure) for _ in range(arguments.rounds)]
                share, seconds = (statistics.median(one[at] for one in rounds) for at in (0, 1))
                print(f"{name:<12} {work:<19} {1000 * seconds / often:>8.2f}  {share:.1%}", flush=True)


if __name__ == "__main__":
    main()
