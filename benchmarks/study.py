"""What running a study costs beside its jobs: overhead per job, the driver's memory, a dry run of 1,000 jobs.

    python benchmarks/study.py [DATASETS]

The jobs are those of datasets that exist already, which do nothing but begin, look, and leave a marker: all the time
is Snakemake's, a Python's start and ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-m", "nnunet_robust.cli.main", "study", "run"]


def study_of(folder: Path, datasets: int, seeds: int) -> Path:
    """A study of that number of datasets, `seeds` trainings each."""
    path = folder / "study.yaml"
    entries = "".join(f"  - {{ id: {number}, existing: true }}\n" for number in range(1, datasets + 1))
    path.write_text(
        f"study: bench\ndatasets:\n{entries}trainers: [nnUNetTrainer]\nseeds: {list(range(seeds))}\n"
        "environment: { nnUNet_raw: raw, nnUNet_preprocessed: preprocessed, nnUNet_results: results }\n"
    )
    return path


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds, and the greatest memory in MB of the driver and Snakemake, without their jobs."""
    began, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        driver = psutil.Process(process.pid)
        while not ended.wait(0.1):
            try:
                both = [driver, *driver.children()]
                peak = max(peak, sum(each.memory_full_info().uss for each in both) / 1e6)
            except psutil.Error:
                continue

    thread = threading.Thread(target=watch)
    thread.start()
    process.wait()
    ended.set()
    thread.join()
    return time.perf_counter() - began, peak


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # A dataset and a plan for each, and the rest trainings, which are not begun.
        path = study_of(folder, jobs, 1000 // jobs - 2)
        seconds, _ = timed([*COMMAND, str(path), "--dry-run"])
        print(f"dry run of 1,000 jobs           {seconds:6.1f} s")
        (folder / "bench" / "raw").mkdir(parents=True)
        for number in range(1, jobs + 1):
            (folder / "bench" / "raw" / f"Dataset{number:03d}_Bench").mkdir()
        _, peak = timed([*COMMAND, str(path), "--snakemake", "--until dataset"])
        nothing, _ = timed([*COMMAND, str(path), "--snakemake", "--until dataset"])
        markers = (folder / "bench" / ".study" / "done" / "dataset").glob("*.json")
        finished = sorted(json.loads(marker.read_text())["finished"] for marker in markers)
        apart = (finished[-1] - finished[0]) / (len(finished) - 1)
        print(f"overhead per job, local         {apart:6.2f} s  ({jobs} jobs, one at a time)")
        print(f"start of a study                {nothing:6.1f} s")
        print(f"driver and Snakemake            {peak:6.0f} MB  (of 1,000 jobs)")


if __name__ == "__main__":
    main()
