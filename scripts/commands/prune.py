"""List orphans: files that the workflow made and that manifest and config no longer ask for.

A file without a record was not made by the workflow: it stays, as does everything that is reached
through a symlink. `--yes` deletes the orphans and their records.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # basemake lies beside this folder

from basemake.build.engine import Graph, Job
from basemake.build.open_build import Build, as_command, open_build
from basemake.build.paths import RECORDS, RESULTS
from basemake.build.records import output_of, read_record, record_of
from basemake.build.run_lock import alone

FEW = 6  # names are listed
PART = ".part"  # ends the name of a file that is being written
# What export_folder writes, and the mark that Snakemake leaves in a folder.
IN_FOLDER = re.compile(r"\d+/\d+/\d+\.(webp|png|jpg)|metadata\.json|\.snakemake_timestamp")


@dataclass(frozen=True)
class Orphan:
    """A file that nothing asks for any more; `name` is for people, `size` in bytes."""

    kind: str
    name: str
    path: Path
    size: int


@dataclass(frozen=True)
class Orphans:
    """Files to delete, records of them to delete last, and files that are left beside them."""

    files: list[Orphan]
    records: list[Path]
    left: list[Path]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def orphans_of(build: Build) -> Orphans:
    """Return the orphans in the build's directory, which is the current one.

    Where config says not to keep bands, those of finished tiles are orphans, too.
    """
    graph = build.graph()
    return find_orphans(graph, surplus_bands(build, graph, graph.stale))


def surplus_bands(build: Build, graph: Graph, stale: list[Job]) -> list[Path]:
    """Return the bands that none of the `stale` jobs reads, where config says not to keep them."""
    if build.config["keep_bands"]:
        return []
    needed = {path for job in stale for path in job.inputs}
    bands = [path for job in graph.jobs if job.rule == "fetch_band" for path in job.outputs]
    return [path for path in bands if str(path) not in needed]


def find_orphans(graph: Graph, surplus: Iterable[Path] = ()) -> Orphans:
    """Return what the workflow made in the current directory that no job of `graph` makes.

    Of the bands in `surplus` only the files are orphans: their records and logs stay.
    """
    wanted = {path for job in graph.jobs for path in job.outputs}
    wanted_logs = {job.log for job in graph.jobs}
    files = {path: _orphan(path) for path in surplus if _is_plain(path)}
    records: list[Path] = []
    left: list[Path] = []
    for output in sorted(_made_here() - wanted):
        kind, name = _kind_and_name(output)
        candidates = [(kind, path) for path in _contents(output)]
        for end in (PART, f"{PART}.json"):
            part = output.with_name(output.name + end)
            candidates += [("unfinished", path) for path in _contents(part)]
        for log in _logs(output) - wanted_logs:
            benchmark = Path("benchmarks", *log.parts[1:]).with_suffix(".tsv")
            candidates += [("logs", log), ("benchmarks", benchmark)]
        for kind, path in candidates:
            if _is_plain(path):
                files[path] = Orphan(kind, name, path, path.stat().st_size)
            elif path.is_symlink() or path.exists():
                left.append(path)
        beside = output.with_name(output.name + ".aux.xml")  # GDAL's, by QGIS
        left += [beside] if beside.exists() else []
        record = record_of(output)
        known = [record, *graph.metadata_of(output), *graph.metadata_of(record)]
        records += [path for path in known if path.is_file()]
    return Orphans(list(files.values()), records, left)


def delete(orphans: Orphans) -> None:
    """Delete orphans, the folders that this leaves empty, and the records of them."""
    for file in orphans.files:
        file.path.unlink(missing_ok=True)
    folders = {folder for file in orphans.files for folder in file.path.parents[:-2]}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with suppress(OSError):  # not empty
            folder.rmdir()
    # The last, so that a prune that is stopped can go on.
    for record in orphans.records:
        record.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            record.parent.rmdir()


def table(orphans: Orphans) -> str:
    """Return orphans by kind as a table for people, and what is left beside them."""
    lines = []
    if orphans.files:
        lines.append(f"{'orphans':<12}{'files':>7}{'size':>12}")
        for kind in dict.fromkeys(file.kind for file in orphans.files):
            of_kind = [file for file in orphans.files if file.kind == kind]
            names = sorted({file.name for file in of_kind})
            named = ", ".join(names) if len(names) <= FEW else f"{names[0]} ... {names[-1]}"
            lines.append(f"{_row(kind, of_kind)}  {named}")
        lines.append(_row("all", orphans.files))
    if orphans.left:
        named = ", ".join(map(str, orphans.left[:FEW])) + (" ..." * (len(orphans.left) > FEW))
        lines.append(f"left alone, as basemake did not make them ({len(orphans.left)}): {named}")
    return "\n".join(lines)


def megabytes(size: int) -> str:
    """Return bytes for people."""
    return f"{size / 1e6:,.1f} MB"


def _row(kind: str, files: list[Orphan]) -> str:
    return f"{kind:<12}{len(files):>7}{megabytes(sum(file.size for file in files)):>12}"


def _made_here() -> set[Path]:
    """Return the outputs that have a record, and those that were begun: with a part and a log."""
    recorded = {output_of(path) for path in RECORDS.glob("*/**/*.json")}
    parts = [part for depth in ("*/*", "*/*/*") for part in RESULTS.glob(depth + PART)]
    begun = {part.with_name(part.name.removesuffix(PART)) for part in parts}
    return recorded | {output for output in begun if any(map(_is_plain, _logs(output)))}


def _logs(output: Path) -> set[Path]:
    """Return where the log of an output is: as its record states, or else by its name."""
    record = read_record(output)
    if record and record.log:
        return {Path(record.log)}
    place = Path("logs", *output.parts[1:]).with_suffix("")
    return {place.with_name(f"{place.name}.log"), *place.parent.glob(f"{place.name}.*.log")}


def _orphan(path: Path) -> Orphan:
    return Orphan(*_kind_and_name(path), path, path.stat().st_size)


def _kind_and_name(output: Path) -> tuple[str, str]:
    """Return an output's folder in results, and its path in there without suffix."""
    place = output.relative_to(RESULTS)
    return place.parts[0], str(Path(*place.parts[1:]).with_suffix(""))


def _contents(path: Path) -> Iterator[Path]:
    """Yield the path of an output, or the files of ours in it if it is a folder."""
    if path.is_dir() and not path.is_symlink():
        for inside in path.rglob("*"):
            if IN_FOLDER.fullmatch(str(inside.relative_to(path))):
                yield inside
    else:
        yield path


def _is_plain(path: Path) -> bool:
    """Say whether a path is a file reached through no symlink."""
    return path.is_file() and path.resolve() == Path.cwd() / path


def main() -> None:
    """List orphans, or delete them; exit with one line if it cannot be said what they are."""
    parser = argparse.ArgumentParser(
        description="List files that manifest and config no longer have. Other options are"
        " snakemake's.",
        allow_abbrev=False,
    )
    parser.add_argument("--yes", action="store_true", help="delete them")
    options, arguments = parser.parse_known_args()
    with as_command("basemake prune"):
        build = open_build(arguments, whole=True)
        with alone() if options.yes else nullcontext():
            orphans = orphans_of(build)
            if options.yes:
                delete(orphans)
    if said := table(orphans):
        print(said)
    if not orphans.files:
        print("nothing to prune")
    elif options.yes:
        print(f"deleted {megabytes(orphans.size)}")
    else:
        again = shlex.join([*sys.argv[1:], "--yes"])
        print(f"to delete them: make prune ARGS={shlex.quote(again)}")


if __name__ == "__main__":
    main()
