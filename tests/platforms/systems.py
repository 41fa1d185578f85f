"""Make the demo, and run the tests, in bare roots of several systems, in places unlike each other.

`python tests/platforms/systems.py FOLDER [SUITE ...]`, as root: see `--help`. Each root gets what
the README asks for, make and Python, and a clone of this checkout's last commit. The demo is made

- by root in a plain place, which installs GDAL and all else;
- by a user without rights, from that checkout, read-only, in a working directory elsewhere;
- by that user in a place with a space and letters beyond ASCII in its name, with another umask,
  language, time zone and order of hashes; the tests run there, too.

All finished files must have the same bytes, in all places of all systems.
"""

import argparse
import hashlib
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from roots import MIRRORS, Root

CHECKOUT = Path(__file__).resolve().parents[2]
DATA = CHECKOUT.parent / "shared/data"  # real pixels, for the tests that want them
PLAIN, HOME, ODD = "/srv/basemake", "/home/user", "/home/user/Käse & Brot/basemake"
USER = "1000:1000"
UNLIKE = {"LANG": "C", "LC_ALL": "C", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}
# What a build leaves to its user; the rest is for basemake itself.
FINISHED = ("bands/*/*", "tiles/*", "mosaic/*", "metatiles/*/*", "pyramid/*", "preview/*")
FINISHED += ("web/*/*",)


@dataclass(frozen=True)
class System:
    """A root in which basemake is tried, and the folder for what its programs print."""

    name: str
    root: Root
    logs: Path

    def run(self, step: str, command: str, **where: Any) -> int:
        """Run a command, and write what it prints to a log; return its status."""
        begin = time.monotonic()
        done = self.root.run(command, **where)
        log = self.logs / f"{self.name}-{step}.log"
        log.write_text(done.stdout)
        state = f"status {done.returncode}, see {log}" if done.returncode else "passed"
        print(f"{self.name}: {step}: {state}, {time.monotonic() - begin:.0f} s", flush=True)
        return done.returncode

    def must(self, step: str, command: str, **where: Any) -> None:
        """Run a command as `run` does; exit with the end of what it printed if it fails."""
        if self.run(step, command, **where):
            sys.exit((self.logs / f"{self.name}-{step}.log").read_text()[-3000:])

    def clone(self, place: str) -> None:
        """Clone this checkout to a place in the root."""
        subprocess.run(["git", "clone", "-q", CHECKOUT, self.root.path / place[1:]], check=True)

    def finished(self, directory: str) -> dict[str, str]:
        """Return the digests of the finished files of a build."""
        results = self.root.path / directory[1:] / "results"
        return {
            str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in FINISHED
            for path in sorted(results.glob(pattern))
        }


def main(options: argparse.Namespace) -> None:
    """Try all systems that are asked for."""
    options.folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, str] = {}
    failed = False
    for suite in options.suites:
        system = System(suite, Root.bare(suite, options.folder / suite), options.folder)
        for directory in _demos(system):
            found = system.finished(directory)
            expected = expected or found
            names = found.keys() | expected.keys()
            differing = sorted(name for name in names if found.get(name) != expected.get(name))
            print(f"{suite}: {directory}: {len(found)} files, {len(differing)} differ: {differing}")
            failed |= bool(differing)
        failed |= not _test(system, options.tests)
    if failed:
        sys.exit("finished files differ, or tests failed; see above")


def _demos(system: System) -> list[str]:
    """Make the demo in all places; return the working directories."""
    system.clone(PLAIN)
    packages = "apt-get install -y -qq --no-install-recommends make python3"
    system.must("packages", f"apt-get update -qq && {packages} && useradd --create-home user")
    system.must("demo", "make demo", folder=PLAIN)
    system.must("versions", "gdal-config --version && .venv/bin/python -V", folder=PLAIN)
    print((system.logs / f"{system.name}-versions.log").read_text(), flush=True)
    elsewhere = f"{HOME}/map"
    shutil.copytree(CHECKOUT / "config", system.root.path / elsewhere[1:] / "config")
    system.clone(ODD)
    system.must("owner", f"chown -R {USER} {HOME}")
    system.must(
        "read-only",
        f"make demo ARGS='--directory {elsewhere}'",
        folder=PLAIN,
        user=USER,
        environment={"HOME": HOME},
        writable={HOME: system.root.path / HOME[1:], "/tmp": system.root.path / "tmp"},
        read_only=True,
    )
    system.must("odd", "umask 077 && make demo", **_oddly())
    return [PLAIN, elsewhere, ODD]


def _test(system: System, tests: list[str]) -> bool:
    """Run the tests in the odd place; return whether they passed."""
    command = f"umask 077 && make test ARGS={shlex.quote(' '.join(tests))}"
    status = system.run("tests", command, **_oddly())
    lines = (system.logs / f"{system.name}-tests.log").read_text().splitlines()
    print(f"{system.name}: {lines[-1]}", flush=True)
    return status == 0


def _oddly() -> dict[str, Any]:
    """Return where and how a user in the odd place runs commands, beside the real data if any."""
    beside = f"{Path(ODD).parent}/shared/data"
    return {
        "folder": ODD,
        "user": USER,
        "environment": {"HOME": HOME, **UNLIKE},
        "writable": {beside: DATA} if DATA.is_dir() else {},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=lambda text: Path(text).absolute(), help="for the roots")
    parser.add_argument("suites", nargs="*", default=list(MIRRORS), help=" ".join(MIRRORS))
    parser.add_argument("--tests", nargs="*", default=[], help="files to run; default: all")
    main(parser.parse_args())
