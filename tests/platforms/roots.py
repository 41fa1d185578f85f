"""Bare roots of Debian and Ubuntu, by debootstrap: what a new machine or a container has.

Root is needed, and a network. Programs run in them by chroot, in mount namespaces of their own.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

MIRRORS = {
    "bookworm": "http://deb.debian.org/debian",
    "trixie": "http://deb.debian.org/debian",
    "sid": "http://deb.debian.org/debian",
    "noble": "http://archive.ubuntu.com/ubuntu",
}
COMPONENTS = {"noble": "main,universe"}  # where GDAL is not in main
# Those of debootstrap: an older one does not know noble, for which jammy's does.
SCRIPTS = Path("/usr/share/debootstrap/scripts")
# How this machine reaches package registries.
NETWORK = ("/etc/resolv.conf", "/etc/pip.conf")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
OWN = "/opt/certificates.pem"  # where they are in a root: Debian's package would replace them


class Root:
    """A folder that is the root of a system."""

    def __init__(self, path: Path) -> None:
        """Take the folder of a root that exists."""
        self.path = path

    @classmethod
    def bare(cls, suite: str, path: Path) -> "Root":
        """Make the smallest root of a suite of MIRRORS."""
        parts = f"--components={COMPONENTS.get(suite, 'main')}"
        command = ["debootstrap", "--variant=minbase", parts, suite, path, MIRRORS[suite]]
        if not (SCRIPTS / suite).exists():
            command.append(str(SCRIPTS / "jammy"))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        # A mirror may be of an earlier day than today, and unstable expires after one week.
        expiry = path / "etc/apt/apt.conf.d/90expiry"
        expiry.write_text('Acquire::Check-Valid-Until "false";\n')
        # As in images of containers: if the machine fails, the root is made anew.
        unsafe = path / "etc/dpkg/dpkg.cfg.d/90unsafe-io"
        unsafe.parent.mkdir(exist_ok=True)
        unsafe.write_text("force-unsafe-io\n")
        for name in NETWORK:
            if Path(name).exists():
                shutil.copy(name, path / name[1:])
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, path / OWN[1:])
        return cls(path)

    def run(
        self,
        command: str,
        *,
        folder: str = "/",
        environment: dict[str, str] | None = None,
        user: str = "0:0",
        writable: dict[str, Path] | None = None,
        read_only: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the shell in the root.

        `writable` folders of this machine are mounted at paths in it; with `read_only` nothing else
        can be written. What is printed is kept, both streams as one.
        """
        root = shlex.quote(str(self.path))
        mounts = [f"mount --bind {root} {root}"]
        mounts += [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
        for place, source in (writable or {}).items():
            target = self.path / place[1:]
            target.mkdir(parents=True, exist_ok=True)
            mounts.append(shlex.join(["mount", "--bind", str(source), str(target)]))
        if read_only:
            mounts.append(f"mount -o remount,bind,ro {root}")
        names = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        names |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        names |= {"PIP_CERT": OWN} if (self.path / OWN[1:]).exists() else {}
        names |= environment or {}
        inside = f"cd {shlex.quote(folder)} && {command}"
        enter = [*(f"{name}={value}" for name, value in names.items()), "/bin/sh", "-c", inside]
        chroot = ["chroot", f"--userspec={user}", str(self.path), "/usr/bin/env", "-i", *enter]
        script = " && ".join([*mounts, f"exec {shlex.join(chroot)}"])
        return subprocess.run(
            ["unshare", "--mount", "/bin/sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def megabytes(self) -> float:
        """The size of all its files, in MB."""
        sizes = subprocess.run(
            ["du", "--summarize", "--bytes", "--one-file-system", self.path],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(sizes.stdout.split()[0]) / 1e6
