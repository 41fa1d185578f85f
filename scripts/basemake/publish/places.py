"""Where maps are published: a folder of a web server, or a bucket of an object store."""

import base64
import hashlib
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from basemake.errors import PublishError
from basemake.publish.pieces import Part, Piece, parts_of
from basemake.system.files import PART, replace
from basemake.system.object_store import GOOGLE, s3_client

CONNECTIONS = 8  # parts that are sent at a time
FOREVER = "public, max-age=31536000, immutable"  # of objects whose names are digests
CURRENT = "no-cache"  # browsers ask whether it changed, each time
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".pmtiles": "application/vnd.pmtiles",
    ".webp": "image/webp",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".qlr": "application/x-qgis-layer-definition",
}


class Base(NamedTuple):
    """A published archive, of which parts may be copied: its name, ETag and pieces."""

    name: str
    etag: str
    pieces: list[Piece]


class Object(NamedTuple):
    """What is known of an object: its bytes, and when it was written (Unix seconds)."""

    size: int
    written: float


class Place(Protocol):
    """What a map needs of the place where it is published. Names are relative, with `/` in them."""

    def check(self, directory: Path) -> None:
        """Raise PublishError if a map of a working directory cannot be published here."""

    def read(self, name: str) -> bytes | None:
        """Return the content of an object, or None if there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Replace an object: readers see the old or the new one."""

    def send(
        self, name: str, path: Path, pieces: list[Piece], base: Base | None
    ) -> tuple[str, int]:
        """Make an object of a file that consists of `pieces`; return its ETag and bytes sent."""

    def objects(self, prefix: str) -> dict[str, Object]:
        """Return the objects whose names begin with `prefix`, by name."""

    def sums(self, prefix: str) -> dict[str, str]:
        """Return the MD5 of each object whose name begins with `prefix`, as hex digits.

        What a bucket made of parts has another text in its place.
        """

    def delete(self, name: str) -> None:
        """Delete an object; nothing happens if there is none."""


def place(to: str, endpoint: str | None = None) -> Place:
    """Return the place that `to` names: s3://bucket/prefix, gs://bucket/prefix or a folder.

    `endpoint` is the address of an S3 service other than Amazon's. Raises PublishError if `to` is
    none of them.
    """
    parts = urlsplit(to)
    # What follows a question mark or a hash sign in an address would be lost.
    whole = not (parts.query or parts.fragment)
    if parts.scheme in ("s3", "gs") and parts.netloc and whole:
        endpoint = endpoint or (GOOGLE if parts.scheme == "gs" else None)
        return Bucket(to.rstrip("/"), parts.netloc, parts.path.strip("/"), endpoint)
    if "://" in to or not to:
        raise PublishError(
            f"--to is {to!r}; allowed: s3://bucket/maps, gs://bucket/maps, a folder."
        )
    return Folder(Path(to).absolute())


class Folder:
    """A folder on this machine, or one that is mounted."""

    def __init__(self, path: Path) -> None:
        """Take a folder that exists, or that can be made."""
        self._path = path

    def check(self, directory: Path) -> None:
        """Raise PublishError if the working directory of the map lies in this folder."""
        if directory.resolve().is_relative_to(self._path.resolve()):
            raise PublishError(
                f"--to is {self._path}, in which the working directory {directory} lies: give a"
                " folder that holds nothing but what is published."
            )

    def __str__(self) -> str:
        """Return its path."""
        return str(self._path)

    def read(self, name: str) -> bytes | None:  # noqa: D102 - see Place
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PublishError(f"{self._path / name} cannot be read: {error.strerror}.") from None

    def write(self, name: str, data: bytes) -> None:  # noqa: D102
        with self._writing(name) as part:
            part.write_bytes(data)

    def send(  # noqa: D102
        self, name: str, path: Path, pieces: list[Piece], base: Base | None
    ) -> tuple[str, int]:
        with self._writing(name) as part:
            shutil.copyfile(path, part)
        return "", path.stat().st_size

    def objects(self, prefix: str) -> dict[str, Object]:  # noqa: D102
        found = {}
        for path in (self._path / f"{prefix}*").parent.rglob("*"):
            name = path.relative_to(self._path).as_posix()
            with suppress(FileNotFoundError):  # another publication may have deleted it
                if name.startswith(prefix) and path.is_file():
                    found[name] = Object(path.stat().st_size, path.stat().st_mtime)
        return found

    def sums(self, prefix: str) -> dict[str, str]:  # noqa: D102
        return {name: self._sum(name) for name in self.objects(prefix)}

    def _sum(self, name: str) -> str:
        with (self._path / name).open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()

    def delete(self, name: str) -> None:  # noqa: D102
        (self._path / name).unlink(missing_ok=True)

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        path = self._path / name
        # A name of its own, as another publication may write the same at the same time.
        part = path.with_name(f"{path.name}.{uuid4().hex}{PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield part
                replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise PublishError(f"{path} cannot be written: {error.strerror}.") from None


class Bucket:
    """A bucket of S3, or of a service that speaks S3, whose keys `s3_client` finds."""

    def check(self, directory: Path) -> None:
        """Do nothing: a bucket is no part of a working directory."""

    def __init__(self, url: str, bucket: str, prefix: str, endpoint: str | None) -> None:
        """Take the address for messages, and the bucket and what all keys in it begin with."""
        self._url, self._bucket, self._prefix = url, bucket, f"{prefix}/" if prefix else ""
        with _as_publish_error(url):
            self._client = s3_client(endpoint, CONNECTIONS)

    def __str__(self) -> str:
        """Return its address."""
        return self._url

    def read(self, name: str) -> bytes | None:  # noqa: D102
        with _as_publish_error(self._url):
            try:
                return bytes(self._client.get_object(**self._at(name))["Body"].read())
            except self._client.exceptions.NoSuchKey:
                return None

    def write(self, name: str, data: bytes) -> None:  # noqa: D102
        with _as_publish_error(self._url):
            self._client.put_object(
                **self._at(name), **_headers(name), Body=data, ContentMD5=_md5(data)
            )

    def send(  # noqa: D102
        self, name: str, path: Path, pieces: list[Piece], base: Base | None
    ) -> tuple[str, int]:
        with _as_publish_error(self._url):
            if base:
                try:
                    # Not all services heed CopySourceIfMatch.
                    if self._client.head_object(**self._at(base.name))["ETag"] == base.etag:
                        return self._upload(name, path, parts_of(pieces, base.pieces), base)
                    logging.warning(
                        "%s: %s is not what was published, so all is uploaded", self._url, base.name
                    )
                except ClientError as error:
                    logging.warning(
                        "%s: parts of %s cannot be copied (%s), so all is uploaded",
                        *(self._url, base.name, error.response["Error"].get("Code")),
                    )
            return self._upload(name, path, parts_of(pieces, []), None)

    def _upload(
        self, name: str, path: Path, parts: list[Part], base: Base | None
    ) -> tuple[str, int]:
        """Upload the parts, and make the object of them once all are there."""
        upload = self._client.create_multipart_upload(**self._at(name), **_headers(name))[
            "UploadId"
        ]
        place = {**self._at(name), "UploadId": upload}

        def send(number: int, part: Part) -> dict[str, Any]:
            place_of_part = {**place, "PartNumber": number}
            if part.source is None or base is None:
                data = _stretch(path, part)
                sent = self._client.upload_part(**place_of_part, Body=data, ContentMD5=_md5(data))
            else:
                sent = self._client.upload_part_copy(
                    **place_of_part,
                    CopySource=self._at(base.name),
                    CopySourceIfMatch=base.etag,
                    CopySourceRange=f"bytes={part.source}-{part.source + part.length - 1}",
                )["CopyPartResult"]
            return {"ETag": sent["ETag"], "PartNumber": number}

        try:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                sent = list(pool.map(send, range(1, len(parts) + 1), parts))
            made = self._client.complete_multipart_upload(**place, MultipartUpload={"Parts": sent})
        except BaseException:
            with suppress(ClientError, BotoCoreError):
                self._client.abort_multipart_upload(**place)
            raise
        size = self._client.head_object(**self._at(name))["ContentLength"]
        if size != path.stat().st_size:
            raise PublishError(
                f"{self._url}/{name} has {size} bytes, {path.stat().st_size} were sent."
            )
        return made["ETag"], sum(part.length for part in parts if part.source is None)

    def objects(self, prefix: str) -> dict[str, Object]:  # noqa: D102
        return {
            name: Object(entry["Size"], entry["LastModified"].timestamp())
            for name, entry in self._listed(prefix)
        }

    def sums(self, prefix: str) -> dict[str, str]:  # noqa: D102
        return {name: entry["ETag"].strip('"') for name, entry in self._listed(prefix)}

    def _listed(self, prefix: str) -> list[tuple[str, dict[str, Any]]]:
        with _as_publish_error(self._url):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            found = [entry for page in pages for entry in page.get("Contents", ())]
        return [(entry["Key"].removeprefix(self._prefix), entry) for entry in found]

    def delete(self, name: str) -> None:  # noqa: D102
        with _as_publish_error(self._url):
            self._client.delete_object(**self._at(name))

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}


def _headers(name: str) -> dict[str, str]:
    suffix = Path(name).suffix
    return {
        "ContentType": TYPES[suffix],
        "CacheControl": FOREVER if suffix == ".pmtiles" else CURRENT,
    }


def _stretch(path: Path, part: Part) -> bytes:
    with path.open("rb") as file:
        file.seek(part.start)
        return file.read(part.length)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@contextmanager
def _as_publish_error(url: str) -> Iterator[None]:
    """Turn what boto3 raises into one sentence."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise PublishError(f"{url}: {error}".rstrip(".") + ".") from None
