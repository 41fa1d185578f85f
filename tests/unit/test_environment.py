"""What is installed: one list of pinned packages for pip and conda, and all that scripts import."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((CHECKOUT / "scripts").rglob("*.py"))
# Where conda's name of a package, or the name that Python imports, is not pip's
CONDA_NAMES = {"snakemake": "snakemake-minimal", "opencv-python-headless": "opencv"}
OPENCV_BUILD = ".93"  # of the wheels: the fourth number is not OpenCV's
IMPORT_NAMES = {
    "pystac-client": "pystac_client",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "opencv-python-headless": "cv2",
}
# Not by Python packages of their own: GDAL's bindings match the system's GDAL, so `make env`
# installs them last.
SYSTEM = {"osgeo"}


def pinned(name: str) -> dict[str, str]:
    """Return package -> version of a requirements file; every line is pinned exactly."""
    lines = (CHECKOUT / "envs" / name).read_text().splitlines()
    entries = [line.split("#")[0].strip() for line in lines]
    package = re.compile(r"([a-z0-9_-]+)(?:\[[a-z,]+\])?==([0-9.]+)")
    return dict(package.fullmatch(entry).groups() for entry in entries if entry)


def imported(path: Path) -> set[str]:
    """Return the top-level modules that a script imports, at its head or later."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def test_conda_has_what_pip_has_at_the_same_versions_and_gdal_and_python() -> None:
    conda = dict(
        dependency.split("=", 1)
        for dependency in yaml.safe_load((CHECKOUT / "envs" / "conda.yaml").read_text())[
            "dependencies"
        ]
    )
    assert conda.pop("python") >= "3.11"
    assert conda.pop("gdal")
    assert conda == {
        CONDA_NAMES.get(name, name): version.removesuffix(OPENCV_BUILD)
        for name, version in pinned("requirements.txt").items()
    }


def test_development_tools_are_pinned_and_apart() -> None:
    names = [f"requirements{of}.txt" for of in ("", "-dev", "-slurm", "-pages")]
    together = [name for file in names for name in pinned(file)]
    assert len(together) == len(set(together))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_only_what_is_pinned(path: Path) -> None:
    """Not what comes along with something else, and may leave with it."""
    own = {"basemake", *(path.stem for path in SCRIPTS if path.parent.name == "commands")}
    packages = {IMPORT_NAMES.get(name, name) for name in pinned("requirements.txt")}
    assert imported(path) <= set(sys.stdlib_module_names) | own | packages | SYSTEM


def test_every_pinned_package_is_used() -> None:
    """One that nothing needs is one more to keep up."""
    text = "\n".join(path.read_text() for path in SCRIPTS)
    packages = {IMPORT_NAMES.get(name, name) for name in pinned("requirements.txt")}
    unused = {
        name
        for name in packages
        if not re.search(rf"(?:import |from |\"){name}\b|\b{name}\"", text)
    }
    # The engine itself, and what it measures jobs with
    assert unused <= {"snakemake", "psutil"}
