"""Checks and measures everything on a GPU, step by step, in at most 8 minutes.

    python benchmarks/gpu_check.py [--device cuda] [--quick] [--only STEP ...] [--results FILE] [--minutes 8]

Each step (`gpu_steps.STEPS`) runs in a process of its own, which is killed at its limit. A JSON line of each is added
to FILE: step, device, seconds, state (ok, failed or skipped), why, and figures; a step that was killed leaves the
figures that it had. Steps that are ok in FILE already are not run again for the same device. It makes its own small
datasets and models. Nothing is needed but Python, torch and `.gpu_env/env.tar.xz` (`make gpu-env`), which is unpacked
where nnU-Net is missing. `--device cpu --quick` runs it all without a GPU, but for what needs CUDA.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DONE = "ok"

# Step -> the most seconds that it may take. The most telling first: a cut still leaves results.
LIMITS = {
    "doctor": 40,
    "data_2d": 60,
    "equality_2d": 90,
    "data_3d": 60,
    "equality_3d": 90,
    "speed_2d": 60,
    "speed_3d": 60,
    "profile": 60,
    "tests": 90,
    "memory": 60,
    "attack": 60,
    "data_ct": 90,
    "speed_ct": 120,
    "trainers": 120,
}


def environment(work: Path, site: Path | None) -> dict[str, str]:
    """The environment of a step: our code, nnU-Net's folders, and the carried packages."""
    paths = [ROOT, HERE, *([site] if site else [])]
    before = os.environ.get("PYTHONPATH")
    folders = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        **folders,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([before] if before else [])]),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "passive",
        # The hook is not installed there.
        "nnUNet_extTrainer": str(ROOT / "nnunet_robust" / "plugin"),
    }


def carried(work: Path) -> Path | None:
    """Unpack the carried packages where nnU-Net is missing; None where it is there."""
    if importlib.util.find_spec("nnunetv2"):
        return None
    from gpu_env import ARCHIVE, FOLDER, unpack

    archive = FOLDER / ARCHIVE
    if not archive.is_file():
        sys.exit(f"nnU-Net is missing here, and so is {archive}: run `make gpu-env` where there is a network, carry it")
    unpack(archive, work / "site")
    return work / "site"


def run_step(name: str, limit: float, options: argparse.Namespace, work: Path, site: Path | None) -> dict[str, Any]:
    """Run a step in a process group of its own, until its limit."""
    found = work / "steps" / f"{name}.json"
    found.parent.mkdir(exist_ok=True)
    found.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "gpu_steps.py"), name, str(found), "--device", options.device]
    log = work / "steps" / f"{name}.log"
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *(["--quick"] if options.quick else [])],
            stdout=file, stderr=subprocess.STDOUT, env=environment(work, site), cwd=work, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(limit)
            why = f"exit {process.returncode}"
        except subprocess.TimeoutExpired:
            why = f"killed at its limit of {limit:.0f} s"
        finally:
            kill_group(process)
    row: dict[str, Any] = json.loads(found.read_text()) if found.is_file() else {}
    if "state" not in row:
        row |= {"state": "failed", "why": f"{why}: {' | '.join(log.read_text().strip().splitlines()[-4:])[-600:]}"}
    return {"step": name, "seconds": round(time.perf_counter() - start, 1), **row}


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a step with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def done_before(results: Path, device: str) -> dict[str, dict[str, Any]]:
    """The steps that are ok in a file of results."""
    if not results.is_file():
        return {}
    rows = [json.loads(line) for line in results.read_text().splitlines() if line]
    return {row["step"]: row for row in rows if row["state"] == DONE and row["asked_device"] == device}


def default_results() -> Path:
    """The device tool brings back what is under $OUT."""
    return Path(os.environ.get("OUT") or ".") / "gpu_check.jsonl"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="smaller images and fewer of them")
    parser.add_argument("--only", nargs="+", default=[], choices=LIMITS, help="these steps, and the data they need")
    parser.add_argument("--results", type=Path, default=default_results(), help="JSON lines; default: %(default)s")
    parser.add_argument("--work", type=Path, help="where data and logs are; default: a folder in /tmp")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no step goes on")
    parser.add_argument("--limit-factor", type=float, default=1.0, help="of each step's limit, for a slow machine")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    end = time.monotonic() + 60 * options.minutes - 5
    work = options.work or Path(tempfile.gettempdir()) / f"gpu_check_{os.getuid()}_{options.device}"
    work.mkdir(parents=True, exist_ok=True)
    site = carried(work)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    before = done_before(options.results, options.device)
    for name, limit in LIMITS.items():
        data = name.startswith("data_")  # of this machine: made again where it is not there
        if options.only and not data and name not in options.only:
            continue
        if name in before and not data:
            print(f"{name}: done before", flush=True)
            continue
        left = end - time.monotonic()
        if left < 5:
            row = {"step": name, "seconds": 0.0, "state": "skipped", "why": "no time left: call it again"}
        else:
            row = run_step(name, min(limit * options.limit_factor, left), options, work, site)
        row |= {"asked_device": options.device, "quick": options.quick}
        with options.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        told = {key: value for key, value in row.items() if key not in ("step", "asked_device", "quick")}
        print(f"{name}: {json.dumps(told)[:800]}", flush=True)


if __name__ == "__main__":
    main()
