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

    @property
    def results(self) -> Path:
        return self.directory / "results"

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start snakemake with `arguments`, as the head of a group of processes."""
        configfile = self.directory / "config.yaml"
        configfile.write_text(yaml.safe_dump(self.config))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile")]
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

    def files(self, pattern: str) -> dict[str, bytes]:
        """Return the content of the results that match, by path."""
        return {
            str(path.relative_to(self.results)): path.read_bytes()
            for path in sorted(self.results.glob(pattern))
            if path.is_file()
        }


@pytest.fixture(scope="session")
def new_build(tmp_path_factory: pytest.TempPathFactory):
    """A function that makes a Build with a config, in a new directory."""

    def make(**config) -> Build:
        return Build(tmp_path_factory.mktemp("build"), config)

    return make


@pytest.fixture(scope="session")
def demo_config() -> dict:
    """The demo, with lossless web tiles so that pixels can be compared."""
    return {
        "source": "simulated",
        "quarter": "2025Q3",
        "regions": {"demo": str(CHECKOUT / "config/regions/demo.geojson")},
        "pyramid": {"metatile_zoom": 8, "quality": "lossless"},
    }
