"""A digest of a script's code: when it changes, the script's outputs are stale.

Snakemake only looks at the time of the script file, which a clone or an edited comment changes, and
not at the modules that the script imports.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2]
# Modules that only report to people or keep records: they do not change the content of outputs.
ONLY_TELLING = {
    "basemake.errors",
    "basemake.system.files",
    "basemake.system.job_log",
    "basemake.web.progress",
    "basemake.build.records",
}


def code_digest(script: Path, *pages: Path) -> str:
    """Return a digest (16 hex digits) of `script` and of the basemake modules that it imports.

    Imports of imports count, too. Comments, docstrings, layout and the modules in ONLY_TELLING do
    not count. `pages` are files of which it makes others: they count as they are.
    """
    files, waiting = {script}, [script]
    while waiting:
        new = _read(waiting.pop())[1] - files
        files |= new
        waiting += new
    statements = sorted(_read(path)[0] for path in files)
    statements += [page.read_text(encoding="utf-8") for page in pages]
    return hashlib.sha256("\0".join(statements).encode()).hexdigest()[:16]


@functools.cache
def _read(path: Path) -> tuple[str, frozenset[Path]]:
    """Return a Python file's normalized statements, and the basemake files that it imports."""
    tree = ast.parse(path.read_bytes())
    statements = [*_statements(tree)]
    for node in (tree, *statements):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            # A constant as a statement has no effect: it is a docstring.
            node.body = [line for line in node.body if not _is_constant(line)]
    return ast.unparse(tree), frozenset(_imported(statements))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements in a module or statement, however deep: a tenth of all nodes."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, name, ()):
            yield inner
            yield from _statements(inner)


def _is_constant(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _imported(statements: Iterable[ast.AST]) -> Iterator[Path]:
    for node in statements:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            path = SCRIPTS / (name.replace(".", "/") + ".py")
            if name not in ONLY_TELLING and path.exists():
                yield path
