"""List orphans: files that the workflow made and that manifest and config no longer have.

What has no record, here or with Snakemake, the workflow did not make: it stays, as does all that
lies behind a symlink. `--yes` deletes the orphans and their records.
"""

import argparse
import re
import shlex
import sys
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # basemake lies beside this folder

from basemake.build.records import RECORDS, is_record, output_of
from basemake.system.run_lock import alone
from command import Build, as_command, open_build

FEW = 6  # names are listed
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"  # of tiles and regions
# Kind and path of each output of the rules, and the name of its job's log and benchmark.
OUTPUTS = [
    ("bands", rf"results/(bands/{NAME}/[A-Za-z0-9][A-Za-z0-9._-]*)\.tif", r"\1"),
    ("tiles", rf"results/(tiles/{NAME})\.tif", r"\1"),
    ("mosaics", rf"results/(mosaic/{NAME}?(?:_\d+)?)(?:_3857)?\.vrt", r"\1"),
    ("metatiles", rf"results/(metatiles/{NAME}/\d+_\d+_\d+)\.(?:pmtiles|png)", r"\1"),
    ("metatiles", rf"results/(metatiles/{NAME}/overview)\.pmtiles", r"\1"),
    ("pyramids", rf"results/(pyramid/{NAME})\.pmtiles", r"\1"),
    ("pyramids", rf"results/(pyramid/{NAME}\.mbtiles)", r"\1"),
    ("pyramids", rf"results/(pyramid/{NAME})", r"\1.folder"),
    ("pyramids", rf"results/(pyramid/{NAME})\.tif", r"\1.cog"),
    ("previews", rf"results/(preview/{NAME})\.html", r"\1"),
]
IN_FOLDER = re.compile(r"\d+/\d+/\d+\.(webp|png|jpg)|metadata\.json|\.snakemake_timestamp")
SNAKEMAKE_RECORDS = (Path(".snakemake/metadata"), Path(".snakemake/incomplete"))


class Orphan(NamedTuple):
    """A file that nothing asks for any more; `name` is for people, `size` in bytes."""

    kind: str
    name: str
    path: Path
    size: int


class Orphans(NamedTuple):
    """Files to delete, the records of them, and what is left beside them."""

    files: list[Orphan]
    records: list[Path]
    left: list[Path]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def outputs(build: Build) -> set[str]:
    """Return the paths of all that a build makes: what lasts, and what comes along."""
    plan = build.plan()
    paths = set(plan.lasting())
    for tile, bands in plan.tiles["bands"].items():
        paths |= {f"results/bands/{tile}/{band}.tif" for band in bands}
    for region in plan.zooms:
        paths |= {f"results/mosaic/{region}_{epsg}_3857.vrt" for epsg in plan.zones(region)}
        paths.add(f"results/metatiles/{region}/overview.pmtiles")
    return paths


def surplus_bands(build: Build) -> list[Path]:
    """Return the bands of finished tiles, where config says not to keep them."""
    if build.config["keep_bands"]:
        return []
    unfinished = {job.wildcards["tile"] for job in build.jobs() if job.rule == "enhance_tile"}
    return [
        Path(f"results/bands/{tile}/{band}.tif")
        for tile, bands in build.plan().tiles["bands"].items()
        if tile not in unfinished
        for band in bands
    ]


def find_orphans(wanted: set[str], surplus: Iterable[Path] = ()) -> Orphans:
    """Return what the workflow made in the current directory that is no part of `wanted`.

    Of the bands in `surplus` only the files are orphans: their records and logs stay.
    """
    files = {
        path: Orphan("bands", f"{path.parent.name}/{path.stem}", path, path.stat().st_size)
        for path in surplus
        if _is_plain(path)
    }
    records, left = [], []
    known = _records()
    # Of a failed job Snakemake keeps no record; a part that has a log is one of ours.
    for pattern in ("*/*.part", "*/*/*.part"):
        for part in Path("results").glob(pattern):
            known.setdefault(str(part.with_suffix("")), [])
    for output in sorted(known.keys() - wanted):
        kind, job = _kind_and_job(output)
        log = Path(f"logs/{job}.log")
        if not kind or not (known[output] or _is_plain(log)):
            continue
        records += known[output]
        candidates = [(kind, path) for path in _contents(Path(output))]
        candidates += [
            ("unfinished", path)
            for end in (".part", ".part.json")
            for path in _contents(Path(output + end))
        ]
        candidates += [("logs", log), ("benchmarks", Path(f"benchmarks/{job}.tsv"))]
        name = job.partition("/")[2]
        for kind, path in candidates:
            if _is_plain(path):
                files[path] = Orphan(kind, name, path, path.stat().st_size)
            elif path.is_symlink() or path.exists():
                left.append(path)
        beside = Path(output + ".aux.xml")  # GDAL's, by QGIS
        if beside.exists():
            left.append(beside)
    return Orphans(list(files.values()), records, left)


def delete(orphans: Orphans) -> None:
    """Delete orphans, the folders that this leaves empty, and Snakemake's records of them."""
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


def _records() -> dict[str, list[Path]]:
    """Return the outputs that have a record, here or with Snakemake, and the files that are it.

    The names of Snakemake's are the outputs' in base64, cut into folders where they are long.
    """
    found: dict[str, list[Path]] = {}
    for path in RECORDS.rglob("*.json"):
        found.setdefault(str(output_of(path)), []).append(path)
    for folder in SNAKEMAKE_RECORDS:
        for path in folder.rglob("*"):
            if path.is_file():
                parts = path.relative_to(folder).parts
                with suppress(ValueError):  # not a record
                    name = urlsafe_b64decode("".join(part.removeprefix("@") for part in parts))
                    output = name.decode()
                    output = str(output_of(output)) if is_record(output) else output
                    found.setdefault(output, []).append(path)
    return found


def _kind_and_job(output: str) -> tuple[str, str]:
    """Return an output's kind and the name of its job's log; both are empty if no rule makes it."""
    for kind, pattern, job in OUTPUTS:
        if match := re.fullmatch(pattern, output):
            return kind, match.expand(job)
    return "", ""


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
        build = open_build(arguments)
        with alone() if options.yes else nullcontext():
            orphans = find_orphans(outputs(build), surplus_bands(build))
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
