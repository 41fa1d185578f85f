"""List orphans: files that the workflow made and that manifest and config no longer need.

Files are taken for the workflow's if a record describes them, or if they are part of an interrupted
download or job that left a log. All others stay, and so does everything that is reached through a
symlink. `--yes` deletes the orphans and their records.
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from basemake.build.bucket import Bucket
from basemake.build.paths import RECORDS, RESULTS
from basemake.build.records import FLAG, output_of, read_record, record_of
from basemake.build.run_lock import alone
from basemake.engine.graph import Graph, Job
from basemake.engine.open_build import Build, as_command, open_build
from basemake.forecast.briefing import in_bytes
from basemake.forecast.costs import ENHANCE, FETCH
from basemake.system.files import PART

FEW = 6  # names, up to which they are listed


@dataclass(frozen=True)
class Orphan:
    """A file that the build no longer needs; `name` is for people, `size` in bytes."""

    kind: str
    name: str
    path: Path
    size: int


@dataclass(frozen=True)
class Orphans:
    """Files to delete, their records to delete last, and files in their places that are kept."""

    files: list[Orphan]
    records: list[Path]
    left: list[Path]

    @property
    def size(self) -> int:
        """The total bytes of the files to delete."""
        return sum(file.size for file in self.files)


def orphans_of(build: Build) -> Orphans:
    """Return the orphans in the build's directory, which is the current one.

    So are the bands, or the enhanced tiles, that config does not keep and no job needs. Raises what
    `Build.graph` raises.
    """
    graph = build.graph()
    return find_orphans(graph, surplus(build, graph, graph.stale))


def surplus(build: Build, graph: Graph, stale: list[Job]) -> list[Path]:
    """Return the bands and enhanced tiles that config does not keep and no `stale` job reads."""
    kept = {FETCH: build.config["keep_bands"], ENHANCE: build.config["keep_tiles"]}
    needed = {path for job in stale for path in job.inputs}
    made = [path for job in graph.jobs if not kept.get(job.rule, True) for path in job.outputs]
    return [path for path in made if str(path) not in needed]


def find_orphans(graph: Graph, surplus: Iterable[Path] = ()) -> Orphans:
    """Return the orphans: files of outputs in the current directory that no job of `graph` makes.

    The files in `surplus` are orphans, too, but their records and logs are not.
    """
    wanted = {path for job in graph.jobs for path in job.outputs}
    wanted_logs = {job.log for job in graph.jobs}
    files = {path: _orphan(path) for path in surplus if _is_plain(path)}
    records: list[Path] = []
    left: list[Path] = []
    fresh = {path for job in graph.jobs if job.causes is None for path in job.outputs}
    begun = _begun()
    for output, parts in begun.items():
        if output in fresh:  # its job died after it was finished, or what it began is not needed
            name = _kind_and_name(output)[1]
            for path in filter(_is_plain, parts):
                files[path] = Orphan("unfinished", name, path, path.stat().st_size)
    for output in sorted(_made_here(begun) - wanted):
        kind, name = _kind_and_name(output)
        own = list(_contents(output))
        if out_of_reach := [path for path in own if path.is_symlink() or not _is_plain(path)]:
            left += out_of_reach  # with its record, so that a later prune still knows it
            continue
        candidates = [(kind, path) for path in own]
        for part in begun.get(output, []):
            own_parts = part.rglob("*") if part.is_dir() else [part]
            candidates += [("unfinished", path) for path in own_parts]
        for log in _logs(output) - wanted_logs:
            benchmark = Path("benchmarks", *log.parts[1:]).with_suffix(".tsv")
            candidates += [("logs", log), ("benchmarks", benchmark)]
        for kind, path in candidates:
            if _is_plain(path):
                files[path] = Orphan(kind, name, path, path.stat().st_size)
        left += _beside(output, own)
        record = record_of(output)
        known = [record, *graph.metadata_of(output), *graph.metadata_of(record)]
        records += [path for path in known if path.is_file()]
    return Orphans(list(files.values()), records, left)


def delete(orphans: Orphans, bucket: Bucket | None = None) -> None:
    """Delete orphans, here and in the `bucket`, folders that are then empty, and last records."""
    if bucket:
        bucket.delete(file.path for file in orphans.files)
        bucket.delete(orphans.records)
    for file in orphans.files:
        file.path.unlink(missing_ok=True)
    folders = {folder for file in orphans.files for folder in file.path.parents[:-2]}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with suppress(OSError):  # not empty
            folder.rmdir()
    # Records last, so that the next prune still finds what an interrupted one left.
    for record in orphans.records:
        record.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            record.parent.rmdir()


def table(orphans: Orphans) -> str:
    """Return a table of the orphans by kind for people, and a line of the files that are kept."""
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
        why = "basemake did not make them, or a symlink leads to them"
        lines.append(f"left alone, as {why} ({len(orphans.left)}): {named}")
    return "\n".join(lines)


def _row(kind: str, files: list[Orphan]) -> str:
    return f"{kind:<12}{len(files):>7}{in_bytes(sum(file.size for file in files)):>12}"


def _made_here(begun: Iterable[Path]) -> set[Path]:
    """Return the outputs that have a record, and those of `begun` that have a log."""
    recorded = {output_of(path) for path in RECORDS.glob("*/**/*.json")}
    return recorded | {output for output in begun if any(map(_is_plain, _logs(output)))}


def _begun() -> dict[Path, list[Path]]:
    """Return the .part files in results, by their outputs."""
    begun: dict[Path, list[Path]] = {}
    for depth in ("*/*", "*/*/*"):
        for part in RESULTS.glob(f"{depth}{PART}*"):
            output = part.with_name(part.name[: part.name.rindex(PART)])
            begun.setdefault(output, []).append(part)
    return begun


def _logs(output: Path) -> set[Path]:
    """Return the paths that the log of an output may have: that in its record, or else by name."""
    record = read_record(output)
    if record and Path(record.log).parts[:1] == ("logs",):
        return {Path(record.log)}
    place = Path("logs", *output.parts[1:]).with_suffix("")
    own = {place.with_name(f"{place.name}.log"), *place.parent.glob(f"{place.name}.*.log")}
    return own | {Path(f"{place.parent}.log")}  # a job that makes all outputs of a folder


def _orphan(path: Path) -> Orphan:
    return Orphan(*_kind_and_name(path), path, path.stat().st_size)


def _kind_and_name(output: Path) -> tuple[str, str]:
    """Return an output's folder in results, and its path in that folder without suffix."""
    place = output.relative_to(RESULTS)
    return place.parts[0], str(Path(*place.parts[1:]).with_suffix(""))


def _contents(output: Path) -> Iterator[Path]:
    """Yield the files of an output that exist: of a folder those that its record names."""
    if output.is_symlink() or not output.is_dir():
        candidates = [output]
    else:
        record = read_record(output)
        candidates = [output / name for name in [*(record.names if record else []), FLAG]]
    yield from (path for path in candidates if path.is_symlink() or path.exists())


def _beside(output: Path, own: list[Path]) -> list[Path]:
    """Return files of others: in an output's folder, or what GDAL writes beside it for QGIS."""
    beside = output.with_name(output.name + ".aux.xml")
    inside = (path for path in output.rglob("*") if not path.is_dir()) if output.is_dir() else ()
    return [*([beside] if beside.exists() else []), *sorted({*inside} - {*own})]


def _is_plain(path: Path) -> bool:
    """Return whether a path is a file in the working directory, without a symlink in the path."""
    here = not path.is_absolute() and ".." not in path.parts
    return here and path.is_file() and path.resolve() == Path.cwd() / path


def main() -> None:
    """List orphans or, with --yes, delete them; exit with one line for an error of the user."""
    parser = argparse.ArgumentParser(
        description="List files that manifest and config no longer need. Other options are"
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
                delete(orphans, build.bucket)
    if said := table(orphans):
        print(said)
    if not orphans.files:
        print("nothing to prune")
    elif options.yes:
        print(f"deleted {in_bytes(orphans.size)}")
    else:
        again = shlex.join([*sys.argv[1:], "--yes"])
        print(f"to delete them: make prune ARGS={shlex.quote(again)}")


if __name__ == "__main__":
    main()
