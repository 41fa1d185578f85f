"""Downloads that resume where they stopped, in this run or a later one."""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import requests

from basemake.build.source import Stall
from basemake.errors import BandError
from basemake.web.access import Access
from basemake.web.progress import Progress
from basemake.web.session import BROKEN_BODY, Interrupted, Patience, Session

CHUNK = 1 << 20
# Multihash prefixes (code and length) that occur in the file:checksum of STAC items.
DIGESTS = {"1114": "sha1", "1220": "sha256", "1340": "sha512", "d50110": "md5"}
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


class Refused(Exception):
    """The service does not accept the credentials, or asks for some."""


@dataclass(frozen=True)
class Promised:
    """What a band's item and source state about its file; None where they do not."""

    size: int | None = None  # bytes
    checksum: str | None = None  # a hexadecimal multihash
    dtype: str | None = None


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


class Download:
    """The download of one band to its part file, which an earlier run may have begun."""

    def __init__(
        self, href: str, part: Path, promised: Promised, access: Access, progress: Progress
    ) -> None:
        """Prepare the download of `href` to the file `part`; nothing is read or sent yet."""
        self._href, self._part, self._promised = href, part, promised
        self._access, self._progress = access, progress
        self._object = {"href": href, "size": promised.size, "checksum": promised.checksum}
        # The ETag or date of the object that the part belongs to. Without one a download cannot be
        # resumed, as the object may have changed.
        self._validator: str | None = None

    def run(self) -> None:
        """Write the whole object to the part file, resuming an earlier download of it.

        Failures that may pass are retried until the source's patience ends (NetworkError); after a
        refusal the credentials are renewed once. Raises BandError if the service does not give the
        object.
        """
        self._resume()
        patience, refusals, reached = Patience(self._access.limits), 0, self._there()
        with Session(self._access) as session:
            while True:
                try:
                    self._fetch_rest(session)
                    return
                except Refused as refusal:
                    refusals += 1
                    if refusals > 1 or not self._access.credentials.renew():
                        raise BandError(
                            f"the service refuses access ({refusal}); check the source's"
                            " credentials, and that they may read this data."
                        ) from None
                except Interrupted as failure:
                    if self._there() > reached:  # bytes fetched again from the start do not count
                        reached = self._there()
                        patience.progressed()
                    patience.wait(failure)

    def _resume(self) -> None:
        """Keep the part file if its sidecar has the same object and a validator; else remove it."""
        try:
            known = dict(json.loads(sidecar_path(self._part).read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            known = {}
        same = {key: known.get(key) for key in self._object} == self._object
        if same and self._part.exists():
            self._validator = known.get("validator")
        if self._validator is None:
            self._part.unlink(missing_ok=True)

    def _there(self) -> int:
        """Return the size of the part file in bytes, or 0 if it cannot be resumed."""
        return self._part.stat().st_size if self._validator else 0

    def _fetch_rest(self, session: Session) -> None:
        """Request the bytes after the end of the part file and append them.

        Raises Interrupted if the transfer breaks off, Refused if the credentials are not accepted,
        BandError for any other status that is final.
        """
        start = self._there()
        if start and start == self._promised.size:
            return
        with self._ask(session, start) as answer:
            status = answer.status_code
            if status == 200:
                self._start_over(answer)
                self._receive(answer, 0, None)
            elif status == 206:
                self._receive(answer, start, self._total_of_rest(answer, start))
            elif status == 416:
                self._check_complete(answer, start)
            elif status in (401, 403):
                raise Refused(f"{status} {answer.reason}")
            else:
                raise BandError(_refusal(answer))

    def _ask(self, session: Session, start: int) -> requests.Response:
        """Return the answer to a request for the bytes from `start` on, its body still unread."""
        credentials = self._access.credentials
        address = credentials.address(self._href)
        headers = {"Accept-Encoding": "identity", **credentials.headers(address)}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": str(self._validator)}
        return session.get(address, headers=headers, stream=True)

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
        return None if given[2] == "*" else int(given[2])

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

    def _receive(self, answer: requests.Response, start: int, total: int | None) -> None:
        """Write the answer's body to the part from byte `start` on.

        `total` is the object's size in bytes by the answer's Content-Range, or None. Raises
        Interrupted if the body ends early or comes too slowly.
        """
        length = answer.raw.length_remaining  # None if Content-Length is missing or invalid
        total = self._promised.size or total or (None if length is None else start + length)
        pace = _Pace(self._access.limits.stall)
        with self._part.open("r+b" if start else "wb") as file:
            file.seek(start)
            try:
                # read1 returns the bytes that have arrived; read would wait for a whole chunk.
                while chunk := answer.raw.read1(CHUNK):
                    file.write(chunk)
                    self._progress.update(file.tell(), total)
                    if total is not None and file.tell() > total:
                        return  # too large, perhaps without end; comparing the size refuses it
                    pace.check(len(chunk))
            except BROKEN_BODY:
                raise Interrupted("the transfer broke off") from None
            if total is not None and file.tell() < total:
                raise Interrupted(f"the transfer ended at {file.tell()} of {total} bytes")


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
