"""Results in a bucket: what jobs need comes from there, and what they make goes there.

The bucket is the truth. It holds the manifest, each output and each record under the path that it
has in a working directory; there, an output that no job needs now has a placeholder: a sparse file
of its size that begins with MARK. So a working directory needs room for the files at work only, and
an empty one becomes whole by `pull`.

The object of a record names, in its metadata, the ETag of the output that it describes, and counts
only while the output has that one. So it does not matter how far a run that died had got, or
whether another run sends the same output at the same time.
"""

import gzip
import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from basemake.build.paths import MANIFEST, RECORDS, RESULTS, SHOWN
from basemake.build.records import is_intact, output_of, read_record, record_of
from basemake.errors import MALFORMED, BucketError
from basemake.system.files import part_of
from basemake.system.object_store import GOOGLE, s3_client

MARK = b"basemake: this is in a bucket\n"
# All records as they were when a run ended: one request instead of one a record.
INDEX = Path("records.json.gz")
OUTPUT = "output"  # the key of metadata that has an output's ETag, empty if the output is not kept
CONNECTIONS = 16
PARTS_AT_A_TIME = 4  # of a large object
BLOCK = 16 << 10  # bytes, by which headers are read


class Sent(NamedTuple):
    """A record in the bucket: the ETag of its object, its text, and the ETag of its output.

    `output` is empty for an output that is not kept.
    """

    etag: str
    text: str
    output: str


def is_placeholder(path: Path) -> bool:
    """Return whether a file stands for one in a bucket."""
    try:
        with path.open("rb") as file:
            return file.read(len(MARK)) == MARK
    except OSError:
        return False


@cache
def bucket_at(url: str | None) -> "Bucket | None":
    """Return the bucket and prefix that `url` names, s3://bucket/prefix or gs://bucket/prefix.

    It is None if `url` is. Raises BucketError if `url` is neither, or if it is None and results/
    shows what is in a bucket.
    """
    if url:
        return Bucket(url)
    with suppress(OSError):
        place = SHOWN.read_text().strip()
        raise BucketError(
            f"{RESULTS.absolute()} shows what is in {place}: give --default-storage-prefix {place},"
            " or build in another directory (--directory)."
        )
    return None


class Bucket:
    """The results that are kept in a bucket of S3, or of a service that speaks S3.

    Its methods raise BucketError, one sentence, if the service refuses or cannot be reached. Paths
    are those in the working directory, which is the current one. Threads may share it.
    """

    def __init__(self, url: str) -> None:
        """Take an address; raises BucketError if it is not one of a bucket."""
        parts = urlsplit(url)
        if (
            parts.scheme not in ("s3", "gs")
            or not parts.netloc
            or parts.query  # what follows a question mark or a hash sign would be lost
            or parts.fragment
        ):
            raise BucketError(
                f"--default-storage-prefix is {url!r}; allowed: s3://bucket/maps, gs://bucket/maps."
            )
        self._url, self._bucket = url.rstrip("/"), parts.netloc
        self._prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
        from boto3.s3.transfer import TransferConfig  # here, as only builds in a bucket need it

        # Where the disk is slower than the network, 16 chunks of 256 KB of a file wait in memory.
        self._transfer = TransferConfig(max_concurrency=PARTS_AT_A_TIME, max_io_queue=16)
        with self._told():
            self._client = s3_client(
                GOOGLE if parts.scheme == "gs" else None, CONNECTIONS * PARTS_AT_A_TIME
            )
        self._objects: dict[Path, tuple[str, int]] = {}  # ETag and bytes, by path
        self._records: dict[Path, Sent] = {}  # by path of the output
        self._index: dict[str, Sent] = {}  # what the index holds
        self._headers: set[Path] = set()  # placeholders that have a GeoTIFF's header
        self._locks: dict[Path, threading.Lock] = {}
        self.is_shown = False  # whether `pull` was called

    def _lock(self, path: Path) -> threading.Lock:
        return self._locks.setdefault(path, threading.Lock())

    def __str__(self) -> str:
        """Return its address."""
        return self._url

    # -- The working directory as the bucket is ----------------------------------------------------

    def pull(self) -> None:
        """Make results/ as it is in the bucket: manifest and records, placeholders for outputs.

        Outputs that are here and as their records say stay. Raises BucketError, too, if the
        directory holds a build of its own.
        """
        self._objects = self._listed()
        self._records = self._read_records()
        self._take_directory()
        if MANIFEST in self._objects:
            manifest, _ = self._get(MANIFEST)
            if not MANIFEST.exists() or MANIFEST.read_bytes() != manifest:
                _write(MANIFEST, manifest)
        for path in RECORDS.rglob("*.json"):
            if output_of(path) not in self._records:
                path.unlink()
        for output, sent in self._records.items():
            self._show(output, sent)
        for folder, _, names in os.walk(RESULTS):
            for path in map(Path(folder).joinpath, names):
                known, there = self._records.get(path), path in self._objects
                # What somebody deleted in the bucket is made anew, even if it is still here.
                deleted = known is not None and known.output and not there
                if deleted or (not (known and there) and is_placeholder(path)):
                    path.unlink()
        self.is_shown = True

    def _take_directory(self) -> None:
        if not SHOWN.exists():
            if any(RECORDS.rglob("*.json")):
                raise BucketError(
                    f"{RESULTS.absolute()} holds a build of its own, which is not in {self}: build"
                    " in another directory (--directory), or leave --default-storage-prefix out."
                )
            RESULTS.mkdir(exist_ok=True)
        SHOWN.write_text(f"{self}\n")

    def _listed(self) -> dict[Path, tuple[str, int]]:
        with self._told():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}{RESULTS}/"
            )
            found = {
                Path(entry["Key"].removeprefix(self._prefix)): (_etag(entry), entry["Size"])
                for page in pages
                for entry in page.get("Contents", ())
            }
        return {path: told for path, told in found.items() if ".." not in path.parts}

    def _read_records(self) -> dict[Path, Sent]:
        """Return the records that describe the outputs in the bucket as they are now."""
        self._index = {}
        with suppress(BucketError, OSError, EOFError, *MALFORMED):  # it only saves requests
            found = json.loads(gzip.decompress(self._get(INDEX)[0]))
            self._index = {str(path): Sent(*map(str, entry)) for path, entry in found.items()}

        def read(path: Path) -> Sent | None:
            etag, known = self._objects[path][0], self._index.get(str(path))
            if known and known.etag == etag:
                return known
            with suppress(*MALFORMED):
                text, metadata = self._get(path)
                return Sent(etag, text.decode(), metadata[OUTPUT])
            return None

        paths = [path for path in self._objects if path.is_relative_to(RECORDS)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            found = zip(map(output_of, paths), pool.map(read, paths), strict=True)
            return {
                output: sent
                for output, sent in found
                if sent and self._objects.get(output, (sent.output,))[0] == sent.output
            }

    def _show(self, output: Path, sent: Sent) -> None:
        """Write an output's record here, and a placeholder unless the output is here."""
        record = record_of(output)
        try:
            same = record.read_text() == sent.text
        except OSError:
            same = False
        if not same:
            _write(record, sent.text.encode())
        if output in self._objects:
            known = read_record(output)
            if not (same and known and output.exists() and is_intact(output, known)):
                self._hold_place(output)

    def _hold_place(self, output: Path) -> None:
        """Put a placeholder in the place of an output, as old as its record."""
        moment = record_of(output).stat().st_mtime_ns
        part = _beside(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(MARK)
            file.truncate(self._objects[output][1])
        os.utime(part, ns=(moment, moment))
        part.replace(output)
        self._headers.discard(output)

    # -- Files from the bucket ---------------------------------------------------------------------

    def fetch(self, paths: Iterable[Path], headers: bool = False) -> None:
        """Put outputs in the places of their placeholders; with `headers`, GeoTIFFs without pixels.

        Raises BucketError if one is not what its record says; its record is then deleted, so that
        the next run makes it anew.
        """
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self._fetch_header if headers else self._fetch, paths))

    def _fetch(self, path: Path) -> None:
        with self._lock(path):
            if not (path in self._headers or is_placeholder(path)):
                return
            part, record = _beside(path), read_record(path)
            try:
                with self._told(path):
                    self._client.download_file(
                        **self._at(path), Filename=str(part), Config=self._transfer
                    )
                with part.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if record is None or found != record.sha256:
                    with self._told(path):
                        now = self._client.head_object(**self._at(path))
                    if _etag(now) == self._objects.get(path, ("",))[0]:  # no other run sent it
                        self.delete([record_of(path)])
                    raise BucketError(
                        f"{self._url}/{path} is not what its record says: run again, and it is made"
                        " anew."
                    )
                moment = record_of(path).stat().st_mtime_ns
                os.utime(part, ns=(moment, moment))
                part.replace(path)
                self._headers.discard(path)
            finally:
                part.unlink(missing_ok=True)

    def _fetch_header(self, path: Path) -> None:
        if path.suffix != ".tif":
            self._fetch(path)
            return
        import tifffile

        with self._lock(path):
            if not is_placeholder(path):
                return
            part, size = _beside(path), self._objects[path][1]
            with part.open("wb") as file, self._told(path):
                file.truncate(size)
                reader = io.BufferedReader(_Reader(self._range(path), size, file), 1)
                # If it proves to be no GeoTIFF, the job says so.
                with suppress(tifffile.TiffFileError), tifffile.TiffFile(reader) as image:
                    for page in image.pages:
                        for tag in page.tags.values():
                            _ = tag.value  # which reads it
            os.utime(part, ns=(0, 0))  # unlike the record's, so that it never counts as whole
            part.replace(path)
            self._headers.add(path)

    def _range(self, path: Path) -> Callable[[int, int], bytes]:
        etag = self._objects[path][0]

        def read(start: int, stop: int) -> bytes:
            stretch = f"bytes={start}-{stop - 1}"
            answer = self._client.get_object(**self._at(path), Range=stretch, IfMatch=etag)
            return bytes(answer["Body"].read())

        return read

    def release(self, paths: Iterable[Path]) -> None:
        """Put placeholders in the places of outputs that are in the bucket; headers stay."""
        for path in paths:
            with self._lock(path):
                here = path.exists() and record_of(path).exists() and not is_placeholder(path)
                if here and path in self._objects and path not in self._headers:
                    self._hold_place(path)

    def release_all(self) -> None:
        """Put placeholders in the places of all outputs that are in the bucket."""
        self._headers.clear()
        self.release([*self._objects])

    # -- Files to the bucket -----------------------------------------------------------------------

    def send(self, outputs: Collection[Path], kept: bool = True) -> None:
        """Send finished outputs, and then their records; only these if outputs are not `kept`."""

        def send(output: Path) -> None:
            self._send_record(output, self._upload(output) if kept else "")

        if not kept:
            self.delete(outputs)  # of a time when they were kept
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(send, outputs))

    def send_search(self) -> None:
        """Send the manifest, and the records that a search changed, if they are not there yet."""
        if MANIFEST.exists() and (
            MANIFEST not in self._objects or self._get(MANIFEST)[0] != MANIFEST.read_bytes()
        ):
            self._upload(MANIFEST)
        for output, sent in [*self._records.items()]:
            if record_of(output).exists() and record_of(output).read_text() != sent.text:
                self._send_record(output, sent.output)

    def _upload(self, path: Path) -> str:
        """Send a file, and return the ETag of its object."""
        with self._told(path):
            self._client.upload_file(str(path), **self._at(path), Config=self._transfer)
            made = self._client.head_object(**self._at(path))
        if made["ContentLength"] != path.stat().st_size:
            raise BucketError(
                f"{self._url}/{path} has {made['ContentLength']} bytes, and"
                f" {path.stat().st_size} were sent: another run changes it."
            )
        self._objects[path] = _etag(made), made["ContentLength"]
        return _etag(made)

    def _send_record(self, output: Path, etag: str) -> None:
        record, body = record_of(output), record_of(output).read_bytes()
        with self._told(record):
            made = self._client.put_object(**self._at(record), Body=body, Metadata={OUTPUT: etag})
        self._objects[record] = _etag(made), len(body)
        self._records[output] = Sent(_etag(made), body.decode(), etag)

    def send_index(self) -> None:
        """Send the index of the records, if it is not as they are."""
        index = {str(record_of(output)): sent for output, sent in sorted(self._records.items())}
        if index != self._index:
            body = gzip.compress(json.dumps(index).encode(), mtime=0)
            with self._told(INDEX):
                self._client.put_object(**self._at(INDEX), Body=body)
            self._index = index

    def delete(self, paths: Iterable[Path]) -> None:
        """Delete files in the bucket; those that are not there are passed over."""

        def delete(path: Path) -> None:
            with self._told(path):
                self._client.delete_object(**self._at(path))
            del self._objects[path]

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(delete, [path for path in paths if path in self._objects]))

    # -- Requests ----------------------------------------------------------------------------------

    def _at(self, path: Path) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{path}"}

    def _get(self, path: Path) -> tuple[bytes, dict[str, str]]:
        """Return the content and the metadata of an object."""
        with self._told(path):
            answer = self._client.get_object(**self._at(path))
            return answer["Body"].read(), answer["Metadata"]

    @contextmanager
    def _told(self, path: Path | None = None) -> Iterator[None]:
        """Turn what boto3 and the disk raise into one sentence."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"{self._url}/{path}" if path else self._url
        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError, OSError) as error:
            raise BucketError(f"{place}: {error}".rstrip(".") + ".") from None


@contextmanager
def brought(bucket: Bucket | None, paths: Sequence[Path]) -> Iterator[None]:
    """Bring outputs from the bucket that keeps them, if there is one, during the block.

    The caller holds the lock of the directory.
    """
    if bucket:
        bucket.fetch(paths)
    yield
    if bucket:
        bucket.release(paths)


class _Reader(io.RawIOBase):
    """An object, read by blocks, each of which is written to the same place of a file."""

    def __init__(self, read: Callable[[int, int], bytes], size: int, file: Any) -> None:
        self._read, self._size, self._file = read, size, file
        self._position = 0
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        number, within = divmod(self._position, BLOCK)
        start = number * BLOCK
        if start >= self._size:
            return 0
        if number not in self._blocks:
            block = self._read(start, min(start + BLOCK, self._size))
            self._blocks[number] = block
            self._file.seek(start)
            self._file.write(block)
        found = self._blocks[number][within : within + len(buffer)]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)


def _etag(said: dict[str, Any]) -> str:
    return str(said["ETag"]).strip('"')


def _beside(path: Path) -> Path:
    """Return the path at which this process writes a file before it gets its own."""
    part = part_of(path)
    return part.with_name(f"{part.name}.{os.getpid()}")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path)
    part.write_bytes(data)
    part.replace(path)
