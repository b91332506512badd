"""A real Slurm of one node with two GPUs to count, in a private directory: no systemd, nothing outside it is touched.

The GPUs are null devices: Slurm numbers and counts them all the same. It listens on 127.0.0.1 only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

GPUS = 2
COMMANDS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "scontrol", "sinfo")

_CONFIG = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/run/munge.sock
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,defer_batch
ReturnToService=2
MinJobAge=86400
KillWait=5
SwitchType=switch/none
MpiDefault=none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm.

    Attributes:
        root: its directory.
        environment: variables with which its commands, and what submits to it, must run.
    """

    root: Path
    environment: Mapping[str, str]

    def __call__(self, *command: str) -> str:
        """What one of its commands prints."""
        done = subprocess.run(command, env=dict(self.environment), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """All jobs since it was started: `id`, `state`, `reason` for waiting, `comment` (Snakemake's rule and job)."""
        columns = {"id": "%i", "state": "%T", "reason": "%r", "comment": "%k"}
        rows = self("squeue", "--states=all", "--noheader", "--format", "|".join(columns.values())).splitlines()
        return [dict(zip(columns, row.split("|"), strict=True)) for row in rows]


def missing() -> str:
    """Why there can be no Slurm here; empty where there can."""
    if absent := [command for command in COMMANDS if shutil.which(command, path=_path()) is None]:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid() != 0:
        return "a Slurm of our own needs root, for its devices and its users"
    return ""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """A Slurm with `GPUS` GPUs; the tests that use it are skipped where there can be none."""
    if reason := missing():
        pytest.skip(reason)
    # Below /tmp, not pytest's folder: a socket's path has at most 107 characters.
    root = Path("/tmp") / f"slurm-{secrets.token_hex(4)}"
    try:
        yield _start(root)
    finally:
        _stop(root)
        shutil.rmtree(root, ignore_errors=True)


def _start(root: Path) -> Slurm:
    for name in ("", "state", "spool", "run", "bin"):
        (root / name).mkdir(mode=0o755)
    for name in ("log", "etc"):
        (root / name).mkdir(mode=0o700)
    host = socket.gethostname().partition(".")[0]
    for number in range(GPUS):
        os.mknod(root / "run" / f"gpu{number}", 0o600 | 0o020000, os.makedev(1, 3))
    controller_port, node_port = _free_ports(2)
    config = root / "etc" / "slurm.conf"
    config.write_text(
        _CONFIG.format(
            host=host,
            root=root,
            controller_port=controller_port,
            node_port=node_port,
            cpus=max(4, os.cpu_count() or 1),
            gpus=GPUS,
        )
    )
    (root / "etc" / "gres.conf").write_text(f"NodeName={host} Name=gpu File={root}/run/gpu[0-{GPUS - 1}]\n")
    # Snakemake's job step drops the variable SLURM_CONF, and /etc is not ours to write to.
    (root / "bin" / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={config} exec {shutil.which("srun")} "$@"\n')
    (root / "bin" / "srun").chmod(0o755)
    slurm = Slurm(root, _environment(root))
    key = root / "etc" / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    munge = {"key-file": key, "socket": "run/munge.sock", "pid-file": "run/munged.pid", "log-file": "log/munged.log"}
    munge["seed-file"] = "run/munged.seed"
    slurm("munged", "--force", *(f"--{option}={root / path}" for option, path in munge.items()))
    slurm("slurmctld", "-f", str(config))
    slurm("slurmd", "-f", str(config))
    for _ in range(100):
        with contextlib.suppress(AssertionError):  # the controller is not up yet
            if slurm("sinfo", "-h", "-o", "%T").strip() == "idle":
                return slurm
        time.sleep(0.2)
    logs = "\n".join(log.read_text(errors="replace")[-2000:] for log in (root / "log").iterdir())
    raise AssertionError(f"Slurm did not start\n{logs}")


def _stop(root: Path) -> None:
    """Cancel its jobs, and end its daemons."""
    with contextlib.suppress(OSError, AssertionError):
        slurm = Slurm(root, _environment(root))
        slurm("scancel", "--me")
        deadline = time.monotonic() + 20
        while slurm("squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(0.5)
    for name in ("slurmd", "slurmctld", "munged"):
        with contextlib.suppress(OSError, ValueError):  # it was not begun, or is gone
            pid = int((root / "run" / f"{name}.pid").read_text())
            os.kill(pid, signal.SIGTERM)
            for _ in range(50):
                os.kill(pid, 0)
                time.sleep(0.1)
            os.kill(pid, signal.SIGKILL)


def _environment(root: Path) -> dict[str, str]:
    path = f"{root / 'bin'}{os.pathsep}{_path()}"
    return {**os.environ, "SLURM_CONF": str(root / "etc" / "slurm.conf"), "PATH": path}


def _path() -> str:
    """Daemons are in folders that are not on everybody's path."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
