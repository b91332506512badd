"""What `sweep --dry-run` says a sweep takes, and what it takes then.

    python benchmarks/dry_run.py [--workspace FOLDER]

Needs a workspace of `benchmarks/faults.py`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from faults import MODEL, OTHER, RAW

SWEEPS = {
    "one model": f"-m {MODEL} --perturb gaussian_blur speckle_noise --disable-tta",
    "mirroring": f"-m {MODEL} --perturb gaussian_blur speckle_noise --levels 0.5",
    "two models": f"-m {MODEL} -m {OTHER} --perturb gaussian_blur speckle_noise --disable-tta --levels 0.5 1",
}


def run(arguments: str) -> tuple[str, float]:
    """What a sweep prints, and its seconds, with those that Python takes to start."""
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("nnunet-robust")), "sweep", *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout + done.stderr, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path("faults_workspace"))
    os.chdir(parser.parse_args().workspace)
    for name, options in SWEEPS.items():
        shutil.rmtree("dry_run", ignore_errors=True)
        arguments = f"-i {RAW}/imagesTs -l {RAW}/labelsTs -device cpu -o dry_run {options}"
        said, trial = run(f"{arguments} --dry-run")
        found = re.search(r"about ([\d:]+)", said)
        _, took = run(arguments)
        print(f"{name}: {found[1] if found else said} said in {trial:.0f} s, {took:.0f} s taken", flush=True)
    shutil.rmtree("dry_run")


if __name__ == "__main__":
    main()
