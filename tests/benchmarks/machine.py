"""The machine of a benchmark, and the versions of what was measured."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import CORES

LIBRARIES = ("numpy", "imagecodecs", "tifffile", "pillow", "pmtiles", "snakemake", "GDAL")


def machine() -> dict[str, str]:
    """Return cores, processor, memory, load and system."""
    processors = Path("/proc/cpuinfo").read_text()
    names = [line for line in processors.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": str(CORES),
        "processor": names[0].split(":")[1].strip() if names else platform.machine(),
        "memory": f"{memory / 1e9:.1f} GB",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that do the work."""
    return {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
