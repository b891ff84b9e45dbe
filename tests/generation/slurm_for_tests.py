# SPDX-License-Identifier: Apache-2.0
"""A real Slurm of one node, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.generation.processes import environment, wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=cpu Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def why_no_slurm() -> str | None:
    """Why none can be started here."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    return None if os.geteuid() == 0 else "Slurm's daemons run as root here"


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def running_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start one; the environment of a machine that belongs to it."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    ports = (_free_port(), _free_port())
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, ports=ports))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"])
    # Nothing of a Slurm that this itself may run in.
    here = {name: value for name, value in environment(folder / "hf").items() if not name.startswith("SLURM")}
    here |= {"PATH": path, "SLURM_CONF": str(configuration)}
    files = {name: folder / f"munge.{name}" for name in ("key", "sock", "pid", "log", "seed")}
    daemons = (
        ["munged", "--force", f"--key-file={files['key']}", f"--socket={files['sock']}", f"--pid-file={files['pid']}",
         f"--log-file={files['log']}", f"--seed-file={files['seed']}"],
        ["slurmctld", "-f", str(configuration)],
        ["slurmd", "-f", str(configuration), "-N", "localhost"],
    )  # fmt: skip
    try:
        for daemon in daemons:
            subprocess.run(daemon, env=here, check=True, capture_output=True, timeout=60)

        def is_idle() -> bool:
            asked = subprocess.run(["sinfo", "-h", "-o", "%T"], env=here, capture_output=True, text=True)
            return asked.stdout.strip() == "idle"

        wait_until(is_idle)
        yield here
    finally:
        subprocess.run(["scancel", "--user=root"], env=here, capture_output=True)
        time.sleep(1)
        for name in ("slurmd.pid", "slurmctld.pid", "munge.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / name).read_text()), signal.SIGTERM)
