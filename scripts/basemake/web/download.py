"""A download that goes on where it stopped, in this run or a later one."""

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
# The multihash prefixes of the checksums that STAC's file extension is seen to have.
DIGESTS = {"1114": "sha1", "1220": "sha256", "1340": "sha512", "d50110": "md5"}
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


class Refused(Exception):
    """The service does not accept the credentials, or asks for some."""


@dataclass(frozen=True)
class Promised:
    """What a band's item and source state about its file; None where they state nothing."""

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
    """Return the path of the JSON file that identifies the object a .part file belongs to."""
    return part.with_name(part.name + ".json")


class Download:
    """One band on its way from the web to its part file, which an earlier run may have begun."""

    def __init__(
        self, href: str, part: Path, promised: Promised, access: Access, progress: Progress
    ) -> None:
        """Download the object at `href`, for which `promised` holds, to the file `part`."""
        self._href, self._part, self._promised = href, part, promised
        self._access, self._progress = access, progress
        self._object = {"href": href, "size": promised.size, "checksum": promised.checksum}
        # The ETag or date of the object that `part` was begun of. Without one nobody can tell
        # whether what follows belongs to it.
        self._validator: str | None = None

    def run(self) -> None:
        """Write the whole object to the part file; go on where an earlier download of it stopped.

        Failures that may pass are tried again, within the patience of the source's limits; after a
        refusal the credentials are renewed once. Raises BandError if the service refuses,
        NetworkError if patience ends.
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
                    if self._there() > reached:  # not if it only comes again from the start
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
        """Return the number of bytes in the part file that a request can go on from."""
        return self._part.stat().st_size if self._validator else 0

    def _fetch_rest(self, session: Session) -> None:
        """Ask for the bytes from the part's end on, and append those that come.

        Raises Interrupted if the transfer breaks off, Refused if the credentials are not accepted.
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
        """Return the answer to a request for the bytes from `start` on, its body not yet read."""
        credentials = self._access.credentials
        address = credentials.address(self._href)
        headers = {"Accept-Encoding": "identity", **credentials.headers(address)}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": str(self._validator)}
        return session.get(address, headers=headers, stream=True)

    def _start_over(self, answer: requests.Response) -> None:
        """Remove the part, and record the validator of the whole object that the answer holds."""
        # Before any byte is written: a killed job must not leave these beside older bytes.
        self._part.unlink(missing_ok=True)
        self._validator = _validator(answer)
        content = {**self._object, "validator": self._validator}
        sidecar_path(self._part).write_text(json.dumps(content))

    def _total_of_rest(self, answer: requests.Response, start: int) -> int | None:
        """Return the object's size by a partial answer (206), or None if it gives none.

        Raises Interrupted, and forgets the part, if the answer is not the rest of that object.
        """
        given = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if not given or int(given[1]) != start or not self._is_same(answer):
            self._validator = None
            raise Interrupted("the service did not send the rest of what was begun")
        return None if given[2] == "*" else int(given[2])

    def _check_complete(self, answer: requests.Response, start: int) -> None:
        """Raise Interrupted, and forget the part, unless a 416 says that nothing is missing."""
        whole = answer.headers.get("Content-Range", "") == f"bytes */{start}"
        if not whole or not self._is_same(answer):
            self._validator = None
            raise Interrupted("the service does not have the rest of what was begun")

    def _is_same(self, answer: requests.Response) -> bool:
        """Return whether a partial answer is of the object begun: not all services heed If-Range.

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
        length = answer.raw.length_remaining  # None if the header is missing or no number
        total = self._promised.size or total or (None if length is None else start + length)
        pace = _Pace(self._access.limits.stall)
        with self._part.open("r+b" if start else "wb") as file:
            file.seek(start)
            try:
                # read1 returns what has come: read would wait until a slow line fills a chunk.
                while chunk := answer.raw.read1(CHUNK):
                    file.write(chunk)
                    self._progress.update(file.tell(), total)
                    if total is not None and file.tell() > total:
                        return  # what is larger than it should be may have no end
                    pace.check(len(chunk))
            except BROKEN_BODY:
                raise Interrupted("the transfer broke off") from None
            if total is not None and file.tell() < total:
                raise Interrupted(f"the transfer ended at {file.tell()} of {total} bytes")


class _Pace:
    """Finds transfers that stall, over windows of at least `stall.seconds`."""

    def __init__(self, stall: Stall) -> None:
        """Begin the first window."""
        self._stall, self._begin, self._came = stall, time.monotonic(), 0

    def check(self, came: int) -> None:
        """Count `came` bytes more; Interrupted if the window that they end was too slow."""
        self._came += came
        elapsed = time.monotonic() - self._begin
        if elapsed <= self._stall.seconds:
            return
        least = self._stall.bytes_per_second
        if self._came < least * elapsed:
            raise Interrupted(f"less than {least} bytes/s came")
        self._begin, self._came = time.monotonic(), 0


def _validator(answer: requests.Response) -> str | None:
    """Return the ETag or, if there is no strong one, the date of the object that is answered."""
    etag = answer.headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else None
    return strong or answer.headers.get("Last-Modified")


def _refusal(answer: requests.Response) -> str:
    status = f"{answer.status_code} {answer.reason}"
    if answer.status_code == 404:
        return f"the service does not have it ({status}); search again: `snakemake manifest`."
    return f"the service answers {status}; check the address and the source."
