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

sys.path.insert(0, str(Path(__file__).parent))

from roots import MIRRORS, Root

CHECKOUT = Path(__file__).resolve().parents[2]
DATA = CHECKOUT.parent / "shared/data"  # real pixels, for the tests that want them
PLAIN, HOME, ODD = "/srv/basemake", "/home/user", "/home/user/Käse & Brot/basemake"
USER = "1000:1000"
UNLIKE = {
    "LANG": "C",
    "LC_ALL": "C",
    "TZ": "Pacific/Kiritimati",
    "PYTHONHASHSEED": "7",
}
# What a build leaves to its user; the rest is for basemake itself.
FINISHED = ("bands/*/*", "tiles/*", "mosaic/*", "metatiles/*/*", "pyramid/*", "preview/*")


@dataclass(frozen=True)
class System:
    """A root in which basemake is tried, and the folder for what its programs print."""

    name: str
    root: Root
    logs: Path

    def run(self, step: str, command: str, **where: object) -> None:
        """Run a command, and write what it prints to a log; exit with its end if it fails."""
        begin = time.monotonic()
        done = self.root.run(command, **where)  # type: ignore[arg-type]
        log = self.logs / f"{self.name}-{step}.log"
        log.write_text(done.stdout)
        state = f"status {done.returncode}, see {log}" if done.returncode else "passed"
        print(f"{self.name}: {step}: {state}, {time.monotonic() - begin:.0f} s", flush=True)
        if done.returncode:
            sys.exit(done.stdout[-3000:])

    def clone(self, place: str) -> None:
        """Clone this checkout, with the real data beside it where there is some."""
        path = self.root.path / place[1:]
        subprocess.run(["git", "clone", "-q", CHECKOUT, path], check=True)
        (path.parent / "shared/data").mkdir(parents=True, exist_ok=True)

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
    differ = []
    for suite in options.suites:
        system = System(suite, Root.bare(suite, options.folder / suite), options.folder)
        for directory in _demos(system):
            found = system.finished(directory)
            expected = expected or found
            names = found.keys() | expected.keys()
            differing = sorted(name for name in names if found.get(name) != expected.get(name))
            print(f"{suite}: {directory}: {len(found)} files, {len(differing)} differ: {differing}")
            differ += differing
        _test(system, options.tests)
    if differ:
        sys.exit("finished files differ")


def _demos(system: System) -> list[str]:
    """Make the demo in all places; return the working directories."""
    system.clone(PLAIN)
    packages = "apt-get install -y -qq --no-install-recommends make python3"
    system.run("packages", f"apt-get update -qq && {packages} && useradd --create-home user")
    system.run("demo", "make demo", folder=PLAIN)
    system.run("versions", "gdal-config --version && .venv/bin/python -V", folder=PLAIN)
    print((system.logs / f"{system.name}-versions.log").read_text(), flush=True)
    map_ = f"{HOME}/map"
    shutil.copytree(CHECKOUT / "config", system.root.path / map_[1:] / "config")
    system.clone(ODD)
    system.run("owner", f"chown -R {USER} {HOME}")
    system.run(
        "read-only",
        f"make demo ARGS='--directory {map_}'",
        folder=PLAIN,
        user=USER,
        environment={"HOME": HOME},
        writable={HOME: system.root.path / HOME[1:], "/tmp": system.root.path / "tmp"},
        read_only=True,
    )
    _oddly(system, "odd", "make demo")
    return [PLAIN, map_, ODD]


def _test(system: System, tests: list[str]) -> None:
    """Run the tests in the odd place."""
    _oddly(system, "tests", f"make test ARGS={shlex.quote(' '.join(tests))}")
    lines = (system.logs / f"{system.name}-tests.log").read_text().splitlines()
    print(f"{system.name}: {lines[-1]}", flush=True)


def _oddly(system: System, step: str, command: str) -> None:
    """Run a command as a user in the odd place."""
    beside = f"{Path(ODD).parent}/shared/data"
    system.run(
        step,
        f"umask 077 && {command}",
        folder=ODD,
        user=USER,
        environment={"HOME": HOME, **UNLIKE},
        writable={beside: DATA} if DATA.is_dir() else {},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=lambda text: Path(text).absolute(), help="for the roots")
    parser.add_argument("suites", nargs="*", default=list(MIRRORS), help=" ".join(MIRRORS))
    parser.add_argument("--tests", nargs="*", default=[], help="files to run; default: all")
    main(parser.parse_args())
