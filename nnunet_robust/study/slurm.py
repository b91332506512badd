"""What a study must know of Slurm beyond Snakemake's executor for it, which is given `arguments`."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from nnunet_robust.common.errors import UserError
from nnunet_robust.study.config import STAGES

# What Slurm calls a job that has not begun; whatever else it lists without being asked is at work.
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")


def job_prefix(root: Path) -> str:
    """How the names of a study's jobs begin, as `squeue -o %j` shows them.

    Args:
        root: the study's folder, absolute.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "-", root.name)[:30]
    return f"{name}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}"


def arguments(root: Path) -> list[str]:
    """Snakemake's arguments for this Slurm.

    Args:
        root: the study's folder, absolute.
    """
    # What a node's failure or a pre-emption ends is queued again by Slurm itself: Snakemake waits for it.
    told = ["--slurm-jobname-prefix", job_prefix(root), "--slurm-requeue"]
    try:
        config = _ask("scontrol", "show", "config")
    except (OSError, UserError):  # a dry run elsewhere
        return told
    accounting = re.search(r"^AccountingStorageType\s*=\s*(\S+)", config, re.MULTILINE)
    if accounting and accounting[1] not in ("accounting_storage/none", "(null)"):
        return told
    # Snakemake would ask `sacct` how jobs are, get no answer, and wait for ever.
    return [*told, "--slurm-status-command", "squeue", "--slurm-no-account"]


def jobs_left(root: Path) -> dict[str, str]:
    """Take over what a killed driver has left in the queue: what waits there is cancelled, what runs goes on.

    Args:
        root: the study's folder, absolute.

    Returns:
        Slurm's numbers of the jobs that run, by job of the study: another one for the same must wait until that has
        ended, and hold no GPU meanwhile.

    Raises:
        UserError: this machine has no Slurm, or it does not answer.
    """
    if shutil.which("squeue") is None:
        raise UserError("--executor slurm: there is no squeue here: run it on a machine from which jobs are submitted")
    if waiting := [number for number, state, _ in _listed(root) if state in _WAITING]:
        # One that has begun meanwhile is left alone.
        _ask("scancel", "--state=PENDING", *waiting)
    return {job: number for number, state, job in _listed(root) if state not in _WAITING}


def refusal(log: Path) -> str:
    """Why Slurm has taken none of a run's jobs, or not all, in its own words; empty where it has not refused any.

    Args:
        log: Snakemake's; the last run in it counts.
    """
    text = log.read_text(encoding="utf-8", errors="replace").rpartition("SLURM run ID")[2]
    found = re.findall(r"sbatch failed\. The error message was '(.*?)'\.\n", text, re.DOTALL)
    return " ".join(found[-1].split()) if found else ""


def _listed(root: Path) -> list[tuple[str, str, str]]:
    """Number, state and job of the study of all that is not over."""
    found = []
    for line in _ask("squeue", "--me", "--noheader", "--format", "%i|%T|%j|%k").splitlines():
        number, state, name, comment = line.split("|", 3)
        stages = "|".join(STAGES)
        job = re.fullmatch(rf"rule_({stages})_wildcards_(.+)", comment.strip())
        if job and name.startswith(f"{job_prefix(root)}_"):
            found.append((number, state, f"{job[1]}/{job[2]}"))
    return found


def _ask(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"Slurm does not answer ({' '.join(command[:2])}: {done.stderr.strip() or done.returncode})")
    return done.stdout
