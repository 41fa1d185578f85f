"""A Slurm cluster on this machine: munged, slurmctld and two slurmd, without accounting."""

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from servers.others import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol")
NODES = ("node1", "node2")
CPUS, MEGABYTES = 4, 16_000  # of a node; Slurm is told not to look at the machine itself
# Jobs are killed when they use more memory than they asked for, as on most clusters by cgroups.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SlurmdTimeout=10
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_min_interval=0
"""


def why_not() -> str:
    """Why a cluster cannot be started here; empty if it can."""
    if missing := [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]:
        return f"no {', '.join(missing)} (Debian's slurm-wlm and munge)"
    return "" if os.getuid() == 0 else "its daemons want root"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Slurm:
    """A running cluster; `environment` is what its commands need."""

    def __init__(self, folder: Path) -> None:
        """Take a folder that the daemons may fill, with a short path."""
        self._folder = folder
        self._daemons: dict[str, subprocess.Popen] = {}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}

    def ask(self, *command: str) -> str:
        """The output of one of Slurm's commands."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        """What Slurm knows of each job, by its number."""
        found = {}
        for line in self.ask("scontrol", "--oneliner", "show", "jobs").splitlines():
            fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
            if "JobId" in fields:
                found[fields["JobId"]] = fields
        return found

    def kill(self, node: str) -> None:
        """Kill a node: its daemon, and all that runs on it for jobs."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mine = process.environ()
                if (mine.get("SLURM_CONF"), mine.get("SLURMD_NODENAME")) == (
                    self.environment["SLURM_CONF"],
                    node,
                ):
                    process.kill()

    def start(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of a process of its own."""
        with (self._folder / f"{name}.out").open("a") as log:
            self._daemons[name] = subprocess.Popen(
                command, env={**os.environ, **self.environment}, stdout=log, stderr=log
            )

    def start_node(self, node: str) -> None:
        """Start a node, which takes jobs from then on."""
        self.start(node, "slurmd", "-D", "-N", node)

    def check(self) -> None:
        """Raise with its log if a daemon has ended."""
        for name, daemon in self._daemons.items():
            if daemon.poll() is not None:
                raise RuntimeError(
                    f"{name}: {(self._folder / name).with_suffix('.out').read_text()}"
                )

    def stop(self) -> None:
        """End all daemons."""
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            daemon.wait()


@contextlib.contextmanager
def slurm() -> Iterator[Slurm]:
    """A cluster of NODES that takes jobs, while the block runs."""
    # munged wants a folder that all may enter, with all those above it.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        yield from _started(Path(folder))


def _started(folder: Path) -> Iterator[Slurm]:
    cluster = Slurm(folder)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    (folder / "state").mkdir()
    folder.chmod(0o711)  # as munged asks for
    lines = [CONFIG.format(host=platform.node(), port=free_port(), folder=folder)]
    lines += [
        f"NodeName={node} NodeHostname={platform.node()} NodeAddr=127.0.0.1"
        f" Port={free_port()} CPUs={CPUS} RealMemory={MEGABYTES}"
        for node in NODES
    ]
    lines.append("PartitionName=main Nodes=ALL Default=YES State=UP LLN=YES")
    (folder / "slurm.conf").write_text("\n".join(lines))
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    try:
        cluster.start("munged", "munged", "--foreground", f"--socket={folder}/munge.socket", *files)
        cluster.start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            cluster.start_node(node)
        while not _is_up(cluster):
            time.sleep(0.2)
        yield cluster
    finally:
        cluster.stop()


def _is_up(cluster: Slurm) -> bool:
    """Whether all nodes take jobs; raises if a daemon has ended instead."""
    cluster.check()
    try:
        return f"idle {len(NODES)}" in cluster.ask("sinfo", "--noheader", "--format=%T %D")
    except subprocess.CalledProcessError:
        return False
