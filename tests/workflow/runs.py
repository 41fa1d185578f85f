"""Whole runs: the real snakemake, as a user calls it, in a working directory of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass
class Build:
    """A working directory and its config, and the runs in it."""

    directory: Path
    config: dict
    checkout: Path = CHECKOUT

    @property
    def results(self) -> Path:
        return self.directory / "results"

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start snakemake with `arguments`, as the head of a group of processes."""
        configfile = self.directory / "config.yaml"
        configfile.write_text(yaml.safe_dump(self.config))
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(self.checkout / "Snakefile"),
        ]
        command += ["--configfile", str(configfile), "--directory", str(self.directory)]
        return subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A user's own profile or config must not reach the tests.
            env={**os.environ, "XDG_CONFIG_HOME": str(self.directory), "PYTHONWARNINGS": ""},
            start_new_session=True,
        )

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run snakemake with `arguments`; return what it printed, or fail with it."""
        running = self.start(*arguments)
        printed, _ = running.communicate()
        if check and running.returncode:
            pytest.fail(f"snakemake {' '.join(arguments)} failed:\n{printed}")
        return printed

    def build(self, cores: int = 2) -> str:
        """Search and build all."""
        return self.run("manifest") + self.run("--cores", str(cores))

    def planned(self, *arguments: str) -> set[str]:
        """Return the rules that a dry-run lists, without `all`."""
        lines = self.run("--dry-run", *arguments).splitlines()
        words = [line.split() for line in lines]
        return {w[1].rstrip(":") for w in words if w[:1] in (["rule"], ["localrule"])} - {"all"}

    def jobs(self, *arguments: str, check: bool = True) -> set[str]:
        """Return the jobs that a run, or a dry-run, names: rule and wildcards, without `all`."""
        found, rule = set(), ""
        for line in self.run(*arguments, check=check).splitlines():
            words = line.replace(",", " ").split()
            if words[:1] in (["rule"], ["localrule"]):
                rule = words[1].rstrip(":")
                found.add(rule)
            elif words[:1] == ["wildcards:"]:
                found.discard(rule)
                found.add(" ".join([rule, *(word.split("=", 1)[1] for word in words[1:])]))
        return found - {"all"}

    def files(self, pattern: str) -> dict[str, bytes]:
        """Return the content of the results that match, by path."""
        return {
            str(path.relative_to(self.results)): path.read_bytes()
            for path in sorted(self.results.glob(pattern))
            if path.is_file()
        }
