"""Verify a results folder: compare each file with its record, and each record with its sources.

It needs nothing but the folder, so that whoever received one can verify it, too. A record holds the
SHA-256 of its output and digests of what that was made of (see build/records.py).
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from basemake.build.manifest import UNREADABLE, Tile, file_key, tiles_of
from basemake.build.paths import MANIFEST, RECORDS, RESULTS, SHOWN
from basemake.build.records import (
    FLAG,
    Record,
    digest,
    is_record,
    output_of,
    parse_record,
    sha256_of,
    sizes_of,
)
from basemake.build.sealed import check_seal
from basemake.system.machine import usable_cores

UNKEPT = {"bands", "tiles"}  # folders whose files a config need not keep
MEMBERS = {"type", "request", "features", "sealed"}  # of a manifest
# Files and folders without a record
NAMES = ("plan.png", "report.html", "codecs", "seams", "looks")
OWN = {MANIFEST, *(RESULTS / name for name in NAMES)}


@dataclass(frozen=True)
class Verified:
    """How many files each folder has that are as recorded, and one line for each problem."""

    intact: Counter[str]
    problems: list[str]


def verify(root: Path) -> Verified:
    """Verify the results folder `root`, whatever its name is; nothing in it is changed."""
    records: dict[Path, Record] = {}  # by the path that the output had where it was made
    problems = []
    damaged = set()  # outputs of which a record is there, but not as it was written
    paths = sorted((root / RECORDS.relative_to(RESULTS)).rglob("*.json"))
    for path in paths:
        output = output_of(RESULTS / path.relative_to(root))
        try:
            records[output] = _checked(parse_record(path.read_bytes()))
        except UNREADABLE:
            damaged.add(output)
            problems.append(f"{output}: its record is not as it was written")
    with ThreadPoolExecutor(usable_cores()) as pool:  # hashing lets other threads run
        found = pool.map(lambda one: _difference(root, *one), records.items())
        for output, problem in zip(records, found, strict=True):
            problems += [f"{output}: {problem}"] if problem else []
    outputs = {*records, *damaged}
    problems += [
        f"{output}: {problem}"
        for output, record in records.items()
        for problem in _lineage(record, records, outputs)
    ]
    problems += _unlike_manifest(root, records, outputs)
    there = [output for output in records if (root / output.relative_to(RESULTS)).exists()]
    named = {problem.split(":")[0] for problem in problems}
    intact = Counter(path.parts[1] for path in there if str(path) not in named)
    problems += [f"{path}: {_unknown(path)}" for path in _others(root, outputs)]
    return Verified(intact, sorted(problems))


def _checked(record: Record) -> Record:
    """Return a record; ValueError if it holds other than what one holds, as after a flipped bit."""
    made_of = record.made_of
    fine = isinstance(record.size, int) and isinstance(record.sha256, str)
    fine = fine and all(isinstance(part, dict) for part in (made_of.settings, made_of.container))
    fine = fine and all(len(pair) == 2 for pair in made_of.inputs)
    if not fine or not all(isinstance(text, str) for pair in made_of.inputs for text in pair):
        raise ValueError("not a record")
    return record


def _difference(root: Path, output: Path, record: Record) -> str | None:
    """Return how an output differs from its record; None if it does not, or is not kept."""
    path = root / output.relative_to(RESULTS)
    try:
        if not path.exists():
            return None if output.parts[1] in UNKEPT else "it is missing"
        sizes = sizes_of(path)
        if path.is_dir():
            missing, more = {*record.names} - {*sizes}, {*sizes} - {*record.names}
            if missing or more:
                example = min(missing or more)
                return f"{len(missing)} of its files are missing, {len(more)} added ({example})"
        if (size := sum(sizes.values())) != record.size:
            return f"it has {size:,} bytes, recorded are {record.size:,}"
        if (found := sha256_of(path)) != record.sha256:
            return f"its SHA-256 is {found}, recorded is {record.sha256}"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return None


def _lineage(record: Record, records: dict[Path, Record], outputs: set[Path]) -> Iterator[str]:
    """Yield which inputs of an output are not those that are recorded now.

    `outputs` are those that have a record, also a damaged one, of which nothing is known.
    """
    for name, known in record.made_of.inputs:
        content, _, checksum = known.partition(":")
        source = records.get(Path(name))
        if source is None:
            if content and not is_record(name) and Path(name) not in outputs:
                yield f"it was made of {name}, which has no record"
        elif source.made_of.content != content or (checksum and source.sha256 != checksum):
            yield f"it was made of another {name} than the one recorded"


def _unlike_manifest(root: Path, records: dict[Path, Record], outputs: set[Path]) -> Iterator[str]:
    """Yield how the tiles differ from those of the manifest."""
    try:
        content = (root / MANIFEST.relative_to(RESULTS)).read_bytes()
        document = json.loads(content)
        tiles = tiles_of(document)
        check_seal(content)
        if document.keys() - MEMBERS:
            raise ValueError("it has other members")
    except FileNotFoundError:
        yield f"{MANIFEST}: it is missing"
        return
    except UNREADABLE:
        yield f"{MANIFEST}: it is not as it was written"
        return
    made = {path.name.split(".")[0] for path in outputs if path.parts[1] == "tiles"}
    for name in sorted(made ^ tiles.keys()):
        other = "is not in the manifest; make prune lists it" if name in made else "was not made"
        yield f"{RESULTS / 'tiles' / name}.tif: the tile {other}"
    for output, record in records.items():
        tile = tiles.get(output.parent.name)
        if output.parts[1] == "bands" and tile and not _is_of(record, tile):
            yield f"{output}: it was fetched from another item than {tile.item} of the manifest"


def _is_of(record: Record, tile: Tile) -> bool:
    """Return whether the record of a band is of an item's assets, as the manifest has them."""
    assets: dict[str, dict] = {}
    for rank, item in enumerate(tile.items, 1):  # those after the last hole was filled do not count
        for key, band in item.bands.items():
            assets[file_key(key, rank)] = band.identity(item.updated)
        if all(
            record.made_of.settings.get(name)
            == digest({key: of[name] for key, of in assets.items()})
            for name in ("href", "digest", "size", "checksum")
        ):
            return True
    return False


def _unknown(path: Path) -> str:
    """Return what a file without a record is."""
    by_gdal = path.name.endswith(".aux.xml")
    return "it has no record" + by_gdal * "; GDAL and QGIS keep statistics in such: delete it"


def _others(root: Path, outputs: set[Path]) -> Iterator[Path]:
    """Yield the files of a results folder that are no output with a record."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = RESULTS / Path(folder, name).relative_to(root)
            places = {path, *path.parents}
            described = is_record(path) or name == FLAG or not OWN.isdisjoint(places)
            if not described and outputs.isdisjoint(places):
                yield path


def main() -> None:
    """Verify a folder and print what was found; exit with status 1 if anything is not right."""
    parser = argparse.ArgumentParser(description="Verify the files of a results folder.")
    parser.add_argument("directory", type=Path, nargs="?", default=RESULTS)
    directory = parser.parse_args().directory.resolve()
    if not (directory / "records").is_dir() and (directory / RECORDS).is_dir():
        directory /= RESULTS
    if not (directory / "records").is_dir():
        sys.exit(f"verify: {directory} has no records/; name the results folder of a build.")
    if (directory / SHOWN.name).exists():
        sys.exit(f"verify: {directory} only shows what is in a bucket; verify a copy of that.")
    found = verify(directory)
    for problem in found.problems:
        print(problem)
    counted = ", ".join(f"{number:,} {folder}" for folder, number in sorted(found.intact.items()))
    print(f"intact: {counted or 'nothing'}; problems: {len(found.problems):,}")
    if found.problems:
        sys.exit(
            "verify: delete what is damaged or of another origin, and run snakemake, which makes it"
            " again; of a map that you were given, ask for it anew."
        )


if __name__ == "__main__":
    main()
