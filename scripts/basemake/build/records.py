"""Records: what each output was made of, in a small JSON file that is written after the output.

The record of results/tiles/X.tif is results/records/tiles/X.tif.json. It contains digests of the
settings and inputs that the output was made of, its size and SHA-256, and the path of its job's
log. A job deletes the records of its outputs before it changes them. So an output is stale if it
has no record, or one that disagrees with config, manifest and code as they are now. Times of files
make nothing stale.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from basemake.build.paths import RECORDS, RESULTS
from basemake.build.sealed import check_seal, sealed
from basemake.errors import MALFORMED, RecordError
from basemake.system.files import writing

TOGETHER = 2 * 10**9  # nanoseconds within which Snakemake touches all outputs of a job
FLAG = ".snakemake_timestamp"  # Snakemake writes it into each folder that is an output


@dataclass(frozen=True)
class MadeOf:
    """What a job makes its outputs of.

    `settings` and `container` are digests by name. A setting in `container` changes only how the
    content is stored (compression, credit): it makes the output stale, but not what is made of it.
    `inputs` are pairs of an input's path and the `content` of what it was made of, in
    the job's order; with its SHA-256, after a colon, where the job states the checksums of inputs.
    """

    settings: dict[str, str]
    container: dict[str, str]
    inputs: list[list[str]]

    @cached_property
    def content(self) -> str:
        """A digest of everything that changes what is made of the outputs."""
        return digest([self.settings, self.inputs])


@dataclass(frozen=True)
class Record:
    """The record of one output.

    `files` is the number of its files, 1 unless it is a folder, and `size` their bytes. `sha256` is
    that of the file, or of a list of the files in a folder, and `names` are the paths of these.
    `log` is the path of its job's log. `known` is what else the job found out, as JSON: of bands
    see bands.py, of tiles and COGs their grid, of tiles the items that they show and the share of
    each.
    """

    made_of: MadeOf
    files: int
    size: int
    sha256: str
    log: str = ""
    names: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)


def made_of(params: Any, inputs: Iterable[tuple[str, str]]) -> MadeOf:
    """Return what a job with Snakemake's `params` makes its outputs of.

    Only the params `code`, `settings` and `container` count; `inputs` are pairs of path and
    content.
    """
    settings = {"code": params.get("code"), **params.get("settings", {})}
    container = params.get("container", {})
    return MadeOf(
        {name: digest(value) for name, value in settings.items()},
        {name: digest(value) for name, value in container.items()},
        [[str(path), content] for path, content in inputs],
    )


def digest(value: Any) -> str:
    """Return a digest (20 hex digits) of a JSON value; 3 equals 3.0, and a list equals a tuple."""
    text = json.dumps(canonical(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def canonical(value: Any) -> Any:
    """Return a JSON value in which floats of whole value are integers, and tuples lists."""
    if isinstance(value, dict):
        return {str(key): canonical(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def record_of(output: str | Path) -> Path:
    """Return the path of an output's record."""
    return RECORDS / (str(Path(output).relative_to(RESULTS)) + ".json")


def output_of(record: str | Path) -> Path:
    """Return the path of the output that a record describes."""
    return RESULTS / str(Path(record).relative_to(RECORDS)).removesuffix(".json")


def is_record(path: str | Path) -> bool:
    """Return whether a path is that of a record."""
    return str(path).startswith(f"{RECORDS}{os.sep}")


def read_record(output: str | Path, directory: Path = Path()) -> Record | None:
    """Return the record of an output in a working directory, or None if there is none readable."""
    try:
        return parse_record((directory / record_of(output)).read_bytes())
    except (OSError, *MALFORMED):
        return None


def parse_record(content: bytes) -> Record:
    """Return the record in a file's content; raises one of MALFORMED if it is none, or damaged."""
    check_seal(content)
    document = json.loads(content)
    document.pop("sealed", None)
    return Record(MadeOf(**document.pop("made_of")), **document)


def write_record(
    output: Path, made_of: MadeOf, log: str = "", known: dict[str, Any] | None = None
) -> None:
    """Write the record of a finished output, whole or not at all.

    Raises TileError if the disk is full.
    """
    path = record_of(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = sizes_of(output)
    names = sorted(name for name in sizes if name)
    record = Record(
        made_of, len(sizes), sum(sizes.values()), sha256_of(output), log, names, known or {}
    )
    _write(path, record)


def replace_known(output: Path, known: dict[str, Any]) -> None:
    """Replace what a record keeps besides, and leave all else, its time included.

    Raises OSError or one of MALFORMED if there is no readable record, and TileError if the disk is
    full.
    """
    path = record_of(output)
    record, moment = parse_record(path.read_bytes()), path.stat()
    _write(path, replace(record, known=known))
    os.utime(path, ns=(moment.st_atime_ns, moment.st_mtime_ns))


def _write(path: Path, record: Record) -> None:
    with writing(path) as part:
        part.write_text(sealed(json.dumps(asdict(record))))


def forget_records(outputs: Iterable[str | Path]) -> None:
    """Delete the records of outputs, before a job changes them; records among them are left out."""
    for output in outputs:
        if not is_record(output):
            record_of(output).unlink(missing_ok=True)


def is_intact(output: Path, record: Record) -> bool:
    """Return whether an output is as it was when its record was written.

    Its size is compared and, where its time is not that of the record (after a copy or a change by
    hand), its SHA-256, too. If that is equal, the record gets the output's time, so that the next
    call need not read the file. For a folder only the number of files and their bytes are compared.
    """
    try:
        if measure(output) != (record.files, record.size):
            return False
        if output.is_dir():
            return True
        path, moment = record_of(output), output.stat().st_mtime_ns
        if 0 <= path.stat().st_mtime_ns - moment <= TOGETHER:
            return True
        if sha256_of(output) != record.sha256:
            return False
        with suppress(OSError):  # such as in a folder of another user
            os.utime(path, ns=(moment, moment))
        return True
    except OSError:
        return False


def measure(output: Path) -> tuple[int, int]:
    """Return the number of an output's files, 1 unless it is a folder, and their total bytes."""
    sizes = sizes_of(output)
    return len(sizes), sum(sizes.values())


def sizes_of(output: Path) -> dict[str, int]:
    """Return bytes by path in a folder, without the file that Snakemake adds; "" is a file's."""
    if not output.is_dir():
        return {"": output.stat().st_size}
    return {
        str(file.relative_to(output)): file.stat().st_size
        for folder, _, names in os.walk(output)
        for file in map(Path(folder).joinpath, names)
        if file.name != FLAG
    }


@contextmanager
def recorded(job: Any, known: dict[str, Any] | None = None) -> Iterator[set[str] | None]:
    """Run a job's work in the block, and write its outputs' records if the block succeeds.

    `job` is the object that Snakemake gives to a script, of which input, output, params and log are
    read; `known` is what the records keep besides, as it is at the end of the block. Yields the
    names of the `container` settings that changed if nothing else changed and the outputs are
    intact; None if the job must do all its work. Raises RecordError if an input has no record,
    because what it was made of is then unknown.
    """
    outputs = [Path(path) for path in job.output if not is_record(path)]
    stated = states_checksums(job.params)
    source = made_of(job.params, [(path, _content(path, stated)) for path in job.input])
    changes = [_changes_of_container(output, source) for output in outputs]
    forget_records(outputs)
    _bring_to_now(job.input)
    yield None if None in changes else {name for change in changes for name in change or ()}
    for output in outputs:
        write_record(output, source, job.log[0], known)


def _changes_of_container(output: Path, source: MadeOf) -> set[str] | None:
    """Return the container settings that changed; None if an intact output differs in more."""
    record = read_record(output)
    if record is None or record.made_of.content != source.content or not is_intact(output, record):
        return None
    old, new = record.made_of.container, source.container
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _content(path: str, checksum: bool) -> str:
    record = read_record(path)
    if record is None:
        raise RecordError(
            f"{path} has no record of what it was made of ({record_of(path)}): run again, and it is"
            " made anew."
        )
    return as_input(record.made_of.content, record if checksum else None)


def states_checksums(params: Any) -> bool:
    """Return whether a job with these params states the checksums of its inputs."""
    return hasattr(params, "checksums")


def as_input(content: str, record: Record | None) -> str:
    """Return an input as MadeOf has it; with its `record` the checksum counts, too."""
    return f"{content}:{record.sha256}" if record else content


def _bring_to_now(inputs: Iterable[str]) -> None:
    """Set inputs whose time is in the future, as after a clock was put back, to the current time.

    Snakemake would refuse the outputs, as they would be older than an input.
    """
    now = time.time()
    for path in inputs:
        if os.stat(path).st_mtime > now:  # noqa: PTH116 - Path.stat is slow for thousands of files
            os.utime(path)


def sha256_of(output: Path) -> str:
    """Return the SHA-256 of a file in hex digits; of a folder that of a list of its files."""
    if output.is_dir():
        files = (f"{sha256_of(output / name)} {name}\n" for name in sorted(sizes_of(output)))
        return hashlib.sha256("".join(files).encode()).hexdigest()
    with output.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
