"""Downloads of objects, whole or in parts, that resume where they stopped, in any later run."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import requests

from basemake.build.source import Stall
from basemake.errors import BandError
from basemake.system.files import writing
from basemake.web.progress import Progress
from basemake.web.session import BROKEN_BODY, Interrupted, Patience, Session

CHUNK = 1 << 20
BUFFER = 4 << 10  # bytes of a part that a kill may lose; from Python 3.14 on it would be 128 KiB
# Multihash prefixes (code and length) that occur in the file:checksum of STAC items.
DIGESTS = {"1114": "sha1", "1220": "sha256", "1340": "sha512", "d50110": "md5"}
UNNAMED = "the service names no version of it, so that its parts could differ"
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class Refused(Exception):
    """The service does not accept the credentials, or asks for some."""


class Changed(Exception):
    """The object is another one than that of which parts are here already."""


class NoParts(Exception):
    """The service gives no parts of an object, or does not tell of which one they are."""


@dataclass(frozen=True)
class Promised:
    """What a band's item and source state about its file; None where they do not.

    `updated` is the date of the item, by which versions of the file are told apart where there is
    no checksum.
    """

    size: int | None = None  # bytes
    checksum: str | None = None  # a hexadecimal multihash
    dtype: str | None = None
    updated: str | None = None


def digest_of(checksum: str | None) -> tuple[str, str] | None:
    """Return algorithm and digits of a hexadecimal multihash, or None if its kind is unknown."""
    text = (checksum or "").lower()
    for prefix, algorithm in DIGESTS.items():
        if text.startswith(prefix):
            return algorithm, text.removeprefix(prefix)
    return None


def sidecar_path(part: Path) -> Path:
    """Return the path of the sidecar, JSON that identifies the object a .part file belongs to."""
    return part.with_name(part.name + ".json")


class Transfer:
    """Requests for bytes of one object, with patience and credentials."""

    def __init__(
        self, href: str, part: Path, promised: Promised, session: Session, progress: Progress
    ) -> None:
        """Prepare to bring bytes of `href` to the file `part`; nothing is read or sent yet."""
        self._href, self._part, self._promised = href, part, promised
        self._session, self._progress = session, progress
        self._object = {"href": href, "size": promised.size, "checksum": promised.checksum}
        if promised.checksum is None:
            self._object["updated"] = promised.updated
        # The ETag or date of the object that the part belongs to. Without one a download cannot be
        # resumed, as the object may have changed.
        self._validator: str | None = None

    @property
    def validator(self) -> str | None:
        """The object's ETag, or else its date, if the service names one of them."""
        return self._validator

    def _persist(self, fetch: Callable[[], None]) -> None:
        """Call `fetch` until it succeeds, while failures may pass and patience lasts.

        After a refusal the credentials are renewed once.
        """
        access = self._session.access
        patience, refusals, reached = Patience(access.limits), 0, self._there()
        while True:
            try:
                fetch()
                return
            except Refused as refusal:
                refusals += 1
                if refusals > 1 or not access.credentials.renew():
                    raise BandError(
                        f"the service refuses access ({refusal}); check the source's"
                        " credentials, and that they may read this data."
                    ) from None
            except Interrupted as failure:
                if self._there() > reached:  # bytes fetched again from the start do not count
                    reached = self._there()
                    patience.progressed()
                patience.wait(failure)

    def _there(self) -> int:
        """Return the size of the part file in bytes, or 0 if it cannot be resumed."""
        return self._part.stat().st_size if self._validator and self._part.exists() else 0

    def _known(self) -> dict:
        """Return the sidecar's content if it is of this object and the part file is there."""
        try:
            known = dict(json.loads(sidecar_path(self._part).read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}
        same = {key: known.get(key) for key in self._object} == self._object
        return known if same and self._part.exists() else {}

    def _ask(self, start: int, stop: int | None) -> requests.Response:
        """Return the answer to a request for bytes `start` to before `stop`, its body still unread.

        None is the object's end. Raises Refused if the credentials are not accepted.
        """
        credentials = self._session.access.credentials
        address = credentials.address(self._href)
        headers = {"Accept-Encoding": "identity", **credentials.headers(address)}
        if start or stop:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if self._validator is not None:
                headers["If-Range"] = self._validator
        answer = self._session.get(address, headers=headers, stream=True)
        if answer.status_code in (401, 403):
            answer.close()
            raise Refused(f"{answer.status_code} {answer.reason}")
        return answer

    def _receive(
        self, answer: requests.Response, file: IO[bytes], start: int, total: int | None
    ) -> int:
        """Append the answer's body to `file`; return the bytes that came with `start` before them.

        Ends where more than `total` came, perhaps without end. Raises Interrupted if the body
        breaks off or comes too slowly.
        """
        pace, at = _Pace(self._session.access.limits.stall), start
        try:
            # read1 returns the bytes that have arrived; read would wait for a whole chunk.
            while chunk := answer.raw.read1(CHUNK):
                file.write(chunk)
                at += len(chunk)
                self._tell(at, total, len(chunk))
                if total is not None and at > total:
                    break
                pace.check(len(chunk))
        except BROKEN_BODY:
            raise Interrupted("the transfer broke off") from None
        return at

    def _tell(self, at: int, total: int | None, new: int) -> None:
        """Report that `new` bytes came, so that the object's before `at` are here, of `total`."""
        self._progress.update(at, total, new)


class Download(Transfer):
    """The download of one whole object to its part file, which an earlier run may have begun."""

    def run(self) -> None:
        """Write the whole object to the part file, resuming an earlier download of it.

        Failures that may pass are retried until the source's patience ends (NetworkError). Raises
        BandError if the service does not give the object.
        """
        self._resume()
        self._persist(self._fetch_rest)

    def _resume(self) -> None:
        """Keep the part file if its sidecar has the same object and a validator; else remove it."""
        self._validator = self._known().get("validator")
        if self._validator is None:
            self._part.unlink(missing_ok=True)

    def _fetch_rest(self) -> None:
        """Request the bytes after the end of the part file and append them.

        Raises Interrupted if the transfer breaks off, BandError for a status that is final.
        """
        start = self._there()
        if start and start == self._promised.size:
            return
        with self._ask(start, None) as answer:
            status = answer.status_code
            if status == 200:
                self._start_over(answer)
                self._append(answer, 0, None)
            elif status == 206:
                self._append(answer, start, self._total_of_rest(answer, start))
            elif status == 416:
                self._check_complete(answer, start)
            else:
                raise BandError(_refusal(answer))

    def _start_over(self, answer: requests.Response) -> None:
        """Remove the part file and write the sidecar of the object that the answer holds whole."""
        # In this order, so that a killed job never leaves a sidecar beside bytes of another object.
        self._part.unlink(missing_ok=True)
        self._validator = _validator(answer)
        content = {**self._object, "validator": self._validator}
        sidecar_path(self._part).write_text(json.dumps(content))

    def _total_of_rest(self, answer: requests.Response, start: int) -> int | None:
        """Return the size of the whole object that a 206 answer states, or None.

        Raises Interrupted, and makes the next try start over, if the answer is not the rest of the
        object.
        """
        given = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if not given or int(given[1]) != start or not self._is_same(answer):
            self._validator = None
            raise Interrupted("the service did not send the rest of what was begun")
        return None if given[3] == "*" else int(given[3])

    def _check_complete(self, answer: requests.Response, start: int) -> None:
        """Raise Interrupted, and make the next try start over, if a 416 means a changed object."""
        whole = answer.headers.get("Content-Range", "") == f"bytes */{start}"
        if not whole or not self._is_same(answer):
            self._validator = None
            raise Interrupted("the service does not have the rest of what was begun")

    def _is_same(self, answer: requests.Response) -> bool:
        """Return whether an answer is of the same object as the part; services may ignore If-Range.

        A service may leave the date out of such an answer (RFC 9110, 15.3.7). Then only a checksum,
        which is compared when the file is complete, can detect a mixture of two objects.
        """
        validator = _validator(answer)
        if validator is None:
            return digest_of(self._promised.checksum) is not None
        return validator == self._validator

    def _append(self, answer: requests.Response, start: int, total: int | None) -> None:
        """Write the answer's body to the part from byte `start` on.

        `total` is the object's size in bytes by the answer's Content-Range, or None. Raises
        Interrupted if the body ends early.
        """
        length = answer.raw.length_remaining  # None if Content-Length is missing or invalid
        total = self._promised.size or total or (None if length is None else start + length)
        with self._part.open("r+b" if start else "wb", BUFFER) as file:
            file.seek(start)
            came = self._receive(answer, file, start, total)
        if total is not None and came < total:  # one that is too large is refused by its size
            raise Interrupted(f"the transfer ended at {came} of {total} bytes")


class Parts(Transfer):
    """Ranges of one object's bytes, some of which an earlier run may have fetched.

    The part file holds one range after another, and its sidecar lists them. All are of one object:
    `validator` is its ETag, or its date, and `size` its bytes; both are None before anything came.
    """

    def __init__(
        self, href: str, part: Path, promised: Promised, session: Session, progress: Progress
    ) -> None:
        """Keep what the part file holds of the object `href`; remove it if that is nothing."""
        super().__init__(href, part, promised, session, progress)
        known = self._known()
        self._validator, self.size = known.get("validator"), known.get("total")
        self._ranges: list[tuple[int, int]] = []
        self._expected: int | None = None
        if self._validator is None or self.size is None:
            self._forget()
            return
        left = part.stat().st_size
        for start, stop in known["ranges"]:  # the last ones may have been cut short
            if left > 0:
                self._ranges.append((start, min(stop, start + left)))
            left -= stop - start
        if left > 0:
            os.truncate(part, part.stat().st_size - left)

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Take the ranges, [start, stop), that will be fetched: progress is told as part of them.

        They must not overlap.
        """
        lacking = 0
        for start, stop in ranges:
            here = (min(stop, last) - max(start, first) for first, last in self._ranges)
            lacking += stop - start - sum(max(0, length) for length in here)
        self._expected = self._there() + lacking

    def fetch(self, start: int, stop: int) -> None:
        """Bring bytes `start` to before `stop`, or to the object's end, to the part file.

        Bytes that are there are not requested again. Failures that may pass are retried until the
        source's patience ends (NetworkError). Raises BandError if the service does not give the
        object or it has another size than promised, Changed if it is another object than before,
        of which nothing is kept, and NoParts if the service gives no parts.
        """
        for first, last in sorted(self._ranges):
            if first <= start < last:
                start = last
            elif start < first < stop:
                self._fetch(start, first)
                start = last
        if start < min(stop, self.size or stop):
            self._fetch(start, stop)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to before `stop` of the object, as far as they were fetched."""
        found, at = b"", 0
        for first, last in self._ranges:
            if first <= start < last:
                with self._part.open("rb") as file:
                    file.seek(at + start - first)
                    found = file.read(min(stop, last) - start)
                break
            at += last - first
        rest = start + len(found)
        return found + self.read(rest, stop) if found and rest < stop else found

    def digest(self, algorithm: str) -> str | None:
        """Return the digest of the object in hexadecimal; None if not all of it was fetched."""
        found, at, size = hashlib.new(algorithm), 0, self.size or 0
        while at < size:
            chunk = self.read(at, min(at + CHUNK, size))
            if not chunk:
                return None
            found.update(chunk)
            at += len(chunk)
        return found.hexdigest()

    def _tell(self, at: int, total: int | None, new: int) -> None:
        """Report the bytes of all ranges that are here."""
        before = sum(stop - start for start, stop in self._ranges[:-1])
        self._progress.update(before + at - self._ranges[-1][0], self._expected, new)

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._validator, self.size, self._ranges = None, None, []

    def _fetch(self, start: int, stop: int) -> None:
        """Fetch a range of which nothing is there."""
        before = self._there()
        self._ranges.append((start, stop))
        self._persist(lambda: self._fetch_rest(start, stop, before))

    def _fetch_rest(self, first: int, stop: int, before: int) -> None:
        """Fetch what is missing of a range, which begins after `before` bytes of the part."""
        start, stop = first + self._there() - before, min(stop, self.size or stop)
        if start >= stop:
            return
        with self._ask(start, stop) as answer:
            if answer.status_code == 416 and self._validator is not None:  # it became shorter
                self._forget()
                raise Changed
            if answer.status_code not in (200, 206):
                raise BandError(_refusal(answer))
            if self._validator not in (None, _validator(answer)):
                if answer.status_code == 206 and _validator(answer) is None:
                    raise NoParts(UNNAMED)
                self._forget()
                raise Changed
            stop = self._agreed(answer, start, stop)
            self._ranges[-1] = first, stop
            self._write_sidecar()
            with self._part.open("ab" if self._there() else "wb", BUFFER) as file:
                came = self._receive(answer, file, start, stop)
        if came > stop:
            os.truncate(self._part, before + stop - first)
        if came < stop:
            raise Interrupted(f"the transfer ended at {came - first} of {stop - first} bytes")

    def _agreed(self, answer: requests.Response, start: int, stop: int) -> int:
        """Return before which byte an answer to a request for `start` to `stop` ends.

        It may end early (RFC 9110, 15.3.7). Raises what `fetch` raises.
        """
        given = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status_code == 200 or given is None or given[3] == "*":
            raise NoParts("the service does not give parts of it")
        self._validator, total = _validator(answer), int(given[3])
        if self._validator is None:
            raise NoParts(UNNAMED)
        if total != (self.size or total):
            self._forget()
            raise Changed
        if self._promised.size not in (None, total):
            raise BandError(
                f"it has {total} bytes, the item promises {self._promised.size}; search again:"
                " `snakemake manifest`."
            )
        self.size, stop = total, min(stop, total)
        if int(given[1]) != start or not start <= int(given[2]) < stop:
            raise NoParts("the service does not give the parts of it that are asked for")
        return stop

    def _write_sidecar(self) -> None:
        known = {"validator": self._validator, "total": self.size, "ranges": self._ranges}
        with writing(sidecar_path(self._part)) as sidecar:
            sidecar.write_text(json.dumps({**self._object, **known}))


class _Pace:
    """Detects transfers that stall, in windows of at least `stall.seconds`."""

    def __init__(self, stall: Stall) -> None:
        """Begin the first window."""
        self._stall, self._begin, self._came = stall, time.monotonic(), 0

    def check(self, came: int) -> None:
        """Count `came` more bytes; Interrupted if a window ends below `stall.bytes_per_second`."""
        self._came += came
        elapsed = time.monotonic() - self._begin
        if elapsed <= self._stall.seconds:
            return
        least = self._stall.bytes_per_second
        if self._came < least * elapsed:
            raise Interrupted(f"less than {least} bytes/s came")
        self._begin, self._came = time.monotonic(), 0


def _validator(answer: requests.Response) -> str | None:
    """Return the object's strong ETag, else its Last-Modified; None if the answer has neither."""
    etag = answer.headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else None
    return strong or answer.headers.get("Last-Modified")


def _refusal(answer: requests.Response) -> str:
    status = f"{answer.status_code} {answer.reason}"
    if answer.status_code == 404:
        return f"the service does not have it ({status}); search again: `snakemake manifest`."
    return f"the service answers {status}; check the address and the source."
