"""A run of a million rows: what its files cost, in seconds and in memory, as it grows.

    python benchmarks/results.py [--rows 10000 100000 1000000]

Rows are stored through `Part.add`, as a finished prediction is, 30 levels a file; then a new process looks at all that
is there, as one that goes on does, and puts `results.csv` together. Given is what a row costs of each, and the peak
memory of either process: neither may grow with the number of rows.

    python benchmarks/results.py --disk [FOLDER]

What it costs that a power cut loses nothing: calls of fsync, and milliseconds, on the disk of a folder (default: the
temporary one). A unit of a sweep is a case under a perturbation, here at 30 levels for 3 models, with uncertainty, and
once more as one of the cases whose pictures the report shows; a file is written whole; a dataset has 2000 files of
5 kB, a checkpoint 500 MB.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nnunet_robust.common.files import flush_tree, replace_durably, write_atomically
from nnunet_robust.eval.results.parts import Part, combine
from nnunet_robust.eval.results.tables import INPUTS, RELIABILITY, RESULTS, Condition

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


def unit(folder: Path, pictures: bool = False) -> None:
    """Store what a unit's predictions make: rows of each model, those of the inputs, and perhaps pictures."""
    tables = [(table, key) for key in ("a", "b", "c") for table in (RESULTS, RELIABILITY)] + [(INPUTS, "")]
    parts = [Part(table.part_file(folder, key, "noise", "case"), table.columns) for table, key in tables]
    for level in range(LEVELS):
        for part in parts:
            part.add(Condition("noise", (level + 1) / 100), [dict.fromkeys(part.columns, 0.123456789012345)])
        for model in range(3 if pictures else 0):
            write_atomically(folder / "pictures" / f"m{model}" / f"noise_{level}.png", bytes(5000))
    Part.flush(parts)


def each_row_flushed(folder: Path) -> None:
    part = Part(folder / "part.csv", RESULTS.columns)
    for level in range(LEVELS):
        part.add(Condition("noise", (level + 1) / 100), [VALUES])
        Part.flush([part])


def dataset(folder: Path) -> None:
    for number in range(2000):
        (folder / f"{number}.png").write_bytes(os.urandom(5000))
    flush_tree(folder)


def checkpoint(folder: Path) -> None:
    temporary, block = folder / "checkpoint.pth.tmp", os.urandom(1 << 20)
    with temporary.open("wb") as file:
        for _ in range(500):
            file.write(block)
    replace_durably(temporary, folder / "checkpoint.pth")


ON_DISK = {
    "a unit of 90 predictions": unit,
    "the same with 90 pictures": lambda folder: unit(folder, pictures=True),
    "30 rows, each flushed": each_row_flushed,
    "a file of 5 kB": lambda folder: write_atomically(folder / "x", bytes(5000)),
    "a dataset of 2000 files": dataset,
    "a checkpoint of 500 MB": checkpoint,
}


def on_disk(where: Path) -> None:
    real, calls = os.fsync, [0]

    def counting(descriptor: int) -> None:
        calls[0] += 1
        real(descriptor)

    for name, write in ON_DISK.items():
        times: dict[bool, list[float]] = {False: [], True: []}
        for flushed in (False, True) * 5:
            calls[0] = 0
            with tempfile.TemporaryDirectory(dir=where) as folder:
                os.sync()
                os.fsync = counting if flushed else lambda _: None
                begin = time.perf_counter()
                write(Path(folder))
                times[flushed].append(1000 * (time.perf_counter() - begin))
        os.fsync = real
        without, flushes = (statistics.median(times[flushed]) for flushed in (False, True))
        print(f"{name:26s} {calls[0]:5d} fsyncs, {without:8.1f} ms without and {flushes:8.1f} ms with them", flush=True)


STEPS = {"store": write, "look": read, "put together": put_together}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--disk", nargs="?", type=Path, const=Path(tempfile.gettempdir()), metavar="FOLDER")
    parser.add_argument("--step", nargs=3, metavar=("NAME", "FOLDER", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        name, folder, rows = options.step
        begin = time.perf_counter()
        STEPS[name](Path(folder), int(rows))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{1e6 * (time.perf_counter() - begin) / int(rows):7.1f} us a row, peak {peak:.0f} MiB")
        return
    if options.disk:
        on_disk(options.disk)
        return
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            for name in STEPS:
                step = [sys.executable, __file__, "--step", name, folder, str(rows)]
                told = subprocess.run(step, capture_output=True, text=True, check=True).stdout.strip()
                print(f"{rows:8d} rows, {name:12s} {told}", flush=True)


if __name__ == "__main__":
    main()
