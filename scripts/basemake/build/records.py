"""Records: what each output was made of, in a small JSON file that is written only after it.

The record of results/tiles/X.tif is results/records/tiles/X.tif.json. It holds digests of the
settings and of the inputs that the output was made of, and its size and SHA-256. A job deletes the
records of its outputs before it changes them. So an output without a record is stale, and so is one
whose record says something else than config, manifest and code do now. Times decide nothing.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from basemake.build.paths import RECORDS, RESULTS
from basemake.errors import RecordError
from basemake.system.files import writing

TOGETHER = 2 * 10**9  # nanoseconds: Snakemake touches the outputs of a job one after the other
FLAG = ".snakemake_timestamp"  # Snakemake puts it into a folder that is an output


@dataclass(frozen=True)
class MadeOf:
    """What a job makes its outputs of.

    `settings` and `container` are digests by name. What is in `container` changes how the content
    is stored (the compression, the credit) and not what consumers read, so it makes the output
    stale, but not what is made of it. `inputs` are the paths of the inputs, in the order in which
    the job takes them, each with the `content` of what it was made of.
    """

    settings: dict[str, str]
    container: dict[str, str]
    inputs: list[list[str]]

    @cached_property
    def content(self) -> str:
        """A digest of all that consumers can see."""
        return digest([self.settings, self.inputs])


@dataclass(frozen=True)
class Record:
    """The record of one output.

    `files` and `size` are the number of its files, 1 unless it is a folder, and their bytes; of a
    folder `sha256` is empty. `log` is the path of its job's log.
    """

    made_of: MadeOf
    files: int
    size: int
    sha256: str
    log: str = ""


def made_of(params: Any, inputs: Iterable[tuple[str, str]]) -> MadeOf:
    """Return what a job makes its outputs of, from Snakemake's `params` of it.

    Of these, `code`, `settings` and `container` count; `inputs` are pairs of path and content.
    """
    settings = {"code": params.get("code"), **params.get("settings", {})}
    container = params.get("container", {})
    return MadeOf(
        {name: digest(value) for name, value in settings.items()},
        {name: digest(value) for name, value in container.items()},
        [[str(path), content] for path, content in inputs],
    )


def digest(value: Any) -> str:
    """Return a digest of a JSON value; 3 and 3.0 have the same, as have lists and tuples."""
    text = json.dumps(canonical(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def canonical(value: Any) -> Any:
    """Return a JSON value with whole numbers as integers, however they were written."""
    if isinstance(value, dict):
        return {str(key): canonical(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def record_of(output: str | Path) -> Path:
    """Return the path of an output's record."""
    return RECORDS / (str(Path(output).relative_to(RESULTS)) + ".json")


def output_of(record: str | Path) -> Path:
    """Return the path of the output that a record is of."""
    return RESULTS / str(Path(record).relative_to(RECORDS)).removesuffix(".json")


def is_record(path: str | Path) -> bool:
    """Tell whether a path is that of a record."""
    return str(path).startswith(f"{RECORDS}{os.sep}")


def read_record(output: str | Path) -> Record | None:
    """Return an output's record; None if there is none, or none that reads."""
    try:
        document = json.loads(record_of(output).read_bytes())
        return Record(MadeOf(**document.pop("made_of")), **document)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None


def write_record(output: Path, made_of: MadeOf, log: str = "") -> None:
    """Write the record of a finished output, whole or not at all; TileError if the disk is full."""
    path = record_of(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    files, size = measure(output)
    with writing(path) as part:
        part.write_text(json.dumps(asdict(Record(made_of, files, size, _sha256(output), log))))


def is_intact(output: Path, record: Record) -> bool:
    """Tell whether an output is as it was when its record was written.

    Its size says so, and its SHA-256 where it does not have the time of its record, as after a
    copy or a change by hand. The record is then given that time: the next call need not read the
    file.
    """
    try:
        if measure(output) != (record.files, record.size):
            return False
        if output.is_dir():
            return True
        path, moment = record_of(output), output.stat().st_mtime_ns
        if 0 <= path.stat().st_mtime_ns - moment <= TOGETHER:
            return True
        if _sha256(output) != record.sha256:
            return False
        with suppress(OSError):  # in a folder of somebody else, for example
            os.utime(path, ns=(moment, moment))
        return True
    except OSError:
        return False


def measure(output: Path) -> tuple[int, int]:
    """Return the number of files of an output, 1 unless it is a folder, and their bytes."""
    if not output.is_dir():
        return 1, output.stat().st_size
    sizes = [
        (Path(folder) / name).stat().st_size
        for folder, _, names in os.walk(output)
        for name in names
        if name != FLAG
    ]
    return len(sizes), sum(sizes)


@contextmanager
def recorded(job: Any) -> Iterator[set[str] | None]:
    """Run a job's work; then, and only if it succeeds, record what its outputs were made of.

    `job` is what Snakemake hands to a script: its input, output, params and log. Where its outputs
    are intact and only their container changes, yields the names of what changes in it, else None.
    Raises RecordError if an input has no record, as then nobody knows what it is made of.
    """
    outputs = [Path(path) for path in job.output if not is_record(path)]
    source = made_of(job.params, [(path, _content(path)) for path in job.input])
    changes = [_changes_of_container(output, source) for output in outputs]
    for output in outputs:
        record_of(output).unlink(missing_ok=True)
    _bring_to_now(job.input)
    yield None if None in changes else {name for change in changes for name in change or ()}
    for output in outputs:
        write_record(output, source, job.log[0])


def _changes_of_container(output: Path, source: MadeOf) -> set[str] | None:
    record = read_record(output)
    if record is None or record.made_of.content != source.content or not is_intact(output, record):
        return None
    old, new = record.made_of.container, source.container
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _content(path: str) -> str:
    record = read_record(path)
    if record is None:
        raise RecordError(
            f"{path} has no record of what it was made of ({record_of(path)}): run again, and it is"
            " made anew."
        )
    return record.made_of.content


def _bring_to_now(inputs: Iterable[str]) -> None:
    """Take back the times of inputs that are in the future, as after a clock that was put back.

    Snakemake refuses outputs that are older than an input.
    """
    now = time.time()
    for path in inputs:
        if os.stat(path).st_mtime > now:  # noqa: PTH116 - there may be thousands
            os.utime(path)


def _sha256(output: Path) -> str:
    """Return the SHA-256 of a file; of a folder the empty text."""
    if output.is_dir():
        return ""
    with output.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
