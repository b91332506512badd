"""How long Python takes to start with and without the hook, and `nnunet-robust --help` to answer.

    python benchmarks/startup.py [RUNS]

The hook's part is measured in two throw-away virtual environments, one of them with the package (`pip install
--no-deps`, which needs the network for setuptools); `--help` in the environment that runs this file.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_MS = {"nnunet-robust --help": 500.0}


def median_ms(commands: dict[str, list[str]], runs: int) -> dict[str, float]:
    """The median wall-clock time of each command; they take turns, so that a busy moment hits all of them."""
    environment = {key: value for key, value in os.environ.items() if key != "nnUNet_extTrainer"}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(runs + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            if run:  # The first fills the caches.
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def environment_with(folder: Path, *packages: str) -> str:
    """The Python of a new virtual environment that has these packages only."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "-q", "install", "--no-deps"]
    for package in packages:
        subprocess.run([*pip, package], check=True)
    return python


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "python, without the hook": [environment_with(Path(folder, "without")), "-c", "pass"],
            "python, with the hook": [environment_with(Path(folder, "with"), str(ROOT)), "-c", "pass"],
            "nnunet-robust --help": [str(Path(sysconfig.get_path("scripts"), "nnunet-robust")), "--help"],
        }
        medians = median_ms(commands, runs)
    for name, value in medians.items():
        limit = f"   (limit {LIMIT_MS[name]:.0f} ms)" if name in LIMIT_MS else ""
        print(f"{name:<26} {value:7.1f} ms{limit}")


if __name__ == "__main__":
    main()
