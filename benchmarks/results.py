"""A run of a million rows: what its files cost, in seconds and in memory, as it grows.

    python benchmarks/results.py [--rows 10000 100000 1000000]

Rows are stored through `Part.add`, as a finished prediction is, 30 levels a file; then a new process looks at all that
is there, as one that goes on does, and puts `results.csv` together. Given is what a row costs of each, and the peak
memory of either process: neither may grow with the number of rows.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nnunet_robust.eval.results.parts import Part, combine
from nnunet_robust.eval.results.tables import RESULTS, Condition

LEVELS = 30
VALUES = dict.fromkeys(RESULTS.columns, 0.123456789012345)


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("p*/*.csv"))


def write(folder: Path, rows: int) -> None:
    for number in range(rows // LEVELS):
        part = Part(folder / f"p{number // 200:04d}" / f"case_{number % 200:03d}.csv", RESULTS.columns)
        for level in range(LEVELS):
            part.add(Condition("gaussian_noise", (level + 1) / 100), [VALUES])


def read(folder: Path, rows: int) -> None:
    done = sum(len(Part(path, RESULTS.columns).rows) for path in paths(folder))
    if done != rows // LEVELS * LEVELS:
        sys.exit(f"{done} conditions are there, not {rows}")


def put_together(folder: Path, rows: int) -> None:
    combine((Part(path, RESULTS.columns) for path in paths(folder)), RESULTS.columns, folder / "results.csv")


STEPS = {"store": write, "look": read, "put together": put_together}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--step", nargs=3, metavar=("NAME", "FOLDER", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        name, folder, rows = options.step
        begin = time.perf_counter()
        STEPS[name](Path(folder), int(rows))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{1e6 * (time.perf_counter() - begin) / int(rows):7.1f} us a row, peak {peak:.0f} MiB")
        return
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            for name in STEPS:
                step = [sys.executable, __file__, "--step", name, folder, str(rows)]
                told = subprocess.run(step, capture_output=True, text=True, check=True).stdout.strip()
                print(f"{rows:8d} rows, {name:12s} {told}", flush=True)


if __name__ == "__main__":
    main()
