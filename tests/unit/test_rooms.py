"""The structure that docs/architecture.md states: who imports whom, and how long functions are."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = CHECKOUT / "scripts"
PACKAGES = [  # lowest first
    *("system", "pixels", "build", "engine", "web", "fetch", "readers"),
    *("forecast", "demo", "measure", "publish", "look", "preview", "report"),
]
APART = {"forecast", "demo", "measure", "publish", "look", "preview"}  # import none of each other
FILES = {path.relative_to(SCRIPTS).with_suffix(""): path for path in SCRIPTS.rglob("*.py")}
TREES = {".".join(name.parts): ast.parse(path.read_bytes()) for name, path in FILES.items()}


def imports(tree: ast.AST) -> set[str]:
    """Return the dotted names that a file imports anywhere, with those taken from modules."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not followed here"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_the_page_lists_the_packages_in_their_order():
    text = (CHECKOUT / "docs/architecture.md").read_text().split("\n## The rooms\n")[1]
    assert re.findall(r"^\| `(\w+)` \|", text.split("\n## ")[0], re.MULTILINE) == PACKAGES
    assert {path.name for path in (SCRIPTS / "basemake").iterdir() if path.is_dir()} - {
        "__pycache__"
    } == {*PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_before_it(package):
    allowed = {*PACKAGES[: PACKAGES.index(package) + 1]}
    if package in APART:
        allowed -= APART - {package}
    for module, tree in TREES.items():
        if module.startswith(f"basemake.{package}."):
            parts = [name.split(".") for name in imports(tree) if name.startswith("basemake.")]
            found = {name[1] for name in parts} - {"errors", "__version__"}
            assert found <= allowed, module


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter({name: imports(tree) & {*TREES} for name, tree in TREES.items()}).prepare()


def test_only_the_engine_imports_snakemake():
    users = {
        module
        for module, tree in TREES.items()
        if any(name.split(".")[0].startswith("snakemake") for name in imports(tree))
    }
    assert {module.rpartition(".")[0] for module in users} == {"basemake.engine"}


def functions() -> Iterator[tuple[str, int, int]]:
    """Yield the name, number of lines and number of parameters of each function in scripts/."""
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                given = node.args
                every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
                every += [extra for extra in (given.vararg, given.kwarg) if extra]
                names = {argument.arg for argument in every} - {"self", "cls"}
                lines = node.end_lineno - node.lineno + 1
                yield f"{module}.{node.name}", lines, len(names)


def test_functions_are_short_and_take_few_parameters():
    found = [*functions()]
    assert [name for name, lines, _ in found if lines > 70] == []
    assert [name for name, _, parameters in found if parameters > 7] == []
    assert median(lines for _, lines, _ in found) < 10


IMPORT_ALL = """
import importlib, os, sys
import cv2
from osgeo import gdal
cv2.setNumThreads(3)
gdal.DontUseExceptions()
before = dict(os.environ)
for module in sys.argv[1:]:
    importlib.import_module(module)
    assert dict(os.environ) == before, f"{module} changes the environment"
    assert cv2.getNumThreads() == 3, f"{module} sets OpenCV's threads"
    assert not gdal.GetUseExceptions(), f"{module} changes what GDAL raises"
"""


def test_importing_a_module_changes_nothing_of_the_process():
    modules = [name.removesuffix(".__init__") for name in TREES if name.startswith("basemake.")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, *modules],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
