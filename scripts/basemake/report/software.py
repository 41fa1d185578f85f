"""The software that a report names: versions and licences of what is installed now."""

import platform
import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple

from osgeo import gdal, osr

from basemake import __version__

ENVS = Path(__file__).resolve().parents[3] / "envs"
REQUIREMENTS = (ENVS / "requirements.txt", ENVS / "requirements-pages.txt")
LONGEST = 60  # characters of a licence's name: longer ones are its text
CLASSIFIER = "License :: OSI Approved :: "


class Software(NamedTuple):
    """A program or library; `licence` is empty where a package does not state it."""

    name: str
    version: str
    licence: str


def software() -> list[Software]:
    """Return basemake, Python, GDAL, PROJ, and the packages that basemake requires."""
    proj = (osr.GetPROJVersionMajor(), osr.GetPROJVersionMinor(), osr.GetPROJVersionMicro())
    found = [
        Software("basemake", __version__, "MIT"),
        Software("Python", platform.python_version(), "PSF-2.0"),
        Software("GDAL", gdal.VersionInfo("RELEASE_NAME"), "MIT"),
        Software("PROJ", ".".join(map(str, proj)), "MIT"),
    ]
    text = "".join(path.read_text() for path in REQUIREMENTS)
    names = re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)
    return [*found, *filter(None, map(package, names))]


def package(name: str) -> Software | None:
    """Return an installed package; None if it is not installed."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return None
    stated = next((about[key] for key in ("License-Expression", "License") if key in about), "")
    classified = [
        text.removeprefix(CLASSIFIER)
        for text in about.get_all("Classifier") or []
        if text.startswith(CLASSIFIER)
    ]
    short = stated.strip() if 0 < len(stated.strip()) <= LONGEST else ""
    return Software(name, about["Version"], short or ", ".join(classified))
