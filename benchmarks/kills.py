"""Kills on purpose: processes that die at any moment (kill -9), begun again until they are done; the same bytes?

    python benchmarks/kills.py [--what study calibrate fit report] [--kills 20] [--workspace FOLDER]

Needs a workspace of `benchmarks/faults.py` for all but the study. First each command runs undisturbed. Then it is begun
anew and killed at random moments, again and again, until it was killed so often; what is finished before that is
compared, and begun in a new folder. A kill of a study is of its driver, or of a training, a sweep or a report that it
has begun, in turn.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from faults import MODEL, RAW, SWEEP

STUDY = """\
study: kills
datasets:
  - { id: 901, synthesize: textures, parameters: { cases: 8, test_cases: 3, size: 64 } }
trainers: [nnUNetTrainer]
stages: 3
batch_size: 2
epochs: 4
iterations: 10
seeds: [1]
sweeps:
  - name: noise
    perturbations: { speckle_noise: [0.1, 0.2, 0.3, 0.4], gaussian_blur: [1, 2, 3] }
device: cpu
retries: 9
environment: { nnUNet_def_n_proc: 1, nnUNet_n_proc_DA: 0, nnUNet_compile: false }
"""
LONGEST = {"driver": 60.0, "train": 12.0, "sweep": 12.0, "report": 6.0}
"""Who is killed in turn, and after how many seconds at most."""
VICTIMS = tuple(LONGEST)
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
COMMANDS = {
    "calibrate": f"calibrate -m {MODEL} -i {RAW}/imagesTs -l {RAW}/labelsTs -device cpu -o OUT.json",
    "fit": f"monitor fit -m {MODEL} -i {RAW}/imagesTs -device cpu -o OUT.json",
    "report": f"report {SWEEP} --format html png csv -o OUT",
}


def digests(paths: list[Path], root: Path) -> dict[str, str]:
    """What is compared: results, the report, the weights; not logs, nor how long something took."""
    return {path.relative_to(root).as_posix(): hashlib.sha256(content(path)).hexdigest() for path in sorted(paths)}


def content(path: Path) -> bytes:
    """A file's bytes; a checkpoint's weights, as it also holds times."""
    if path.suffix == ".pth":
        import torch

        weights = torch.load(path, map_location="cpu", weights_only=False)["network_weights"]
        return b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in weights.items())
    if path.name == "report.html":  # its manifest names the study's folder, and the checkpoint's digest, see above
        return re.sub(rb"[0-9a-f]{64}|(?<=/kills_study/)\w+", b"", path.read_bytes())
    return path.read_bytes()


def start(command: str, log: Path) -> subprocess.Popen:
    """Begin a command in a group of its own."""
    with log.open("ab") as file:
        executable = str(Path(sys.executable).with_name("nnunet-robust"))
        return subprocess.Popen([executable, *command.split()], stdout=file, stderr=file, start_new_session=True)


def children(pid: int) -> list[int]:
    """A process's descendants."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found, new = [], [pid]
    while new:
        new = [child for child, parent in pairs if parent in new]
        found += new
    return found


def victims(driver: int, stage: str, folder: Path) -> list[int]:
    """The processes of a stage's job; the driver's own."""
    if stage == "driver":
        return [driver]
    words = {"train": "nnUNetv2_train", "sweep": " sweep ", "report": " report "}[stage]
    found = []
    for pid in children(driver):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in f"{line} ":
            found.append(pid)
    return found


def kill_study(kills: int, place: Path) -> tuple[int, int, int]:
    """Kill a study's processes; how many kills, how many finished studies were compared, how many had other bytes."""

    def outputs(root: Path) -> dict[str, str]:
        kept = ["results.csv", "inputs.csv", "report.html", "checkpoint_final.pth", "foreground_ratio.csv"]
        return digests([path for name in kept for path in root.rglob(name)], root)

    for name in FOLDERS:
        os.environ.pop(name, None)  # each study has its own
    place.mkdir()
    (place / "study.yaml").write_text(STUDY)
    whole = start(f"study run {place}/study.yaml -o {place}/whole", place / "log")
    if whole.wait() != 0:
        sys.exit(f"the undisturbed study failed: {place}/log")
    expected = outputs(place / "whole")
    moments = random.Random(0)
    killed = compared = other = number = 0
    fresh = True
    while True:
        folder = place / f"study_{number}"
        process = start(f"study run {place}/study.yaml -o {folder}", place / "log")
        stage = VICTIMS[killed % len(VICTIMS)] if killed < kills else None
        due: float | None = None
        while process.poll() is None:
            if stage and due is None and (stage == "driver" or victims(process.pid, stage, folder)):
                due = time.monotonic() + moments.uniform(
                    0, {"driver": 60, "train": 12, "sweep": 12, "report": 6}[stage]
                )
            if due is not None and time.monotonic() > due:
                found = victims(process.pid, str(stage), folder)
                for pid in found:
                    os.kill(pid, signal.SIGKILL)
                if found:
                    killed += 1
                    print(f"kill {killed}: {stage}", flush=True)
                    stage = VICTIMS[killed % len(VICTIMS)] if killed < kills else None
                due = None
            time.sleep(0.05)
        if process.returncode == -9:
            continue
        if process.returncode != 0:
            print(f"exit {process.returncode}: begun again", flush=True)
            other += not fresh
            fresh = False
            continue
        compared += 1
        found_now = outputs(folder)
        if found_now != expected:
            other += 1
            print("other bytes:", sorted(n for n in expected if found_now.get(n) != expected[n]), flush=True)
        if killed >= kills:
            return killed, compared, other
        number, fresh = number + 1, True


def kill_command(name: str, kills: int, place: Path) -> tuple[int, int, int]:
    """The same of one command."""
    os.environ.update({folder: str(place.parent / "demo" / folder) for folder in FOLDERS})
    place.mkdir()
    command = COMMANDS[name]

    def outputs(target: Path) -> dict[str, str]:
        found = target.rglob("*") if target.is_dir() else place.glob(f"{target.name}.json")
        return {
            path.relative_to(place).as_posix().replace(target.name, "OUT"): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in found
            if path.is_file()
        }

    began = time.monotonic()
    if start(command.replace("OUT", str(place / "whole")), place / "log").wait() not in (0, 1):
        sys.exit(f"undisturbed it failed: {place}/log")
    seconds = time.monotonic() - began
    expected = outputs(place / "whole")
    moments = random.Random(0)
    killed = compared = other = number = 0
    while True:
        target = place / f"again_{number}"
        process = start(command.replace("OUT", str(target)), place / "log")
        if killed < kills:
            try:
                process.wait(moments.uniform(0.2, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed += 1
                continue
        process.wait()
        compared += 1
        found = outputs(target)
        if found != expected:
            other += 1
            print("other files:", sorted(n for n in {*expected, *found} if found.get(n) != expected.get(n)), flush=True)
        if killed >= kills:
            return killed, compared, other
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=["study", *COMMANDS], default=["study", *COMMANDS])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workspace", type=Path, default=Path("faults_workspace"))
    options = parser.parse_args()
    workspace = options.workspace.absolute()
    os.chdir(workspace)
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    bad = 0
    for what in options.what:
        place = workspace / f"kills_{what}"
        shutil.rmtree(place, ignore_errors=True)
        run: Callable[[int, Path], tuple[int, int, int]] = (
            kill_study if what == "study" else lambda kills, place, what=what: kill_command(what, kills, place)
        )
        killed, compared, other = run(options.kills, place)
        print(f"{what}: {killed} kills, {compared} finished runs compared, {other} with other bytes", flush=True)
        bad += other
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
