"""A download that goes on where it stopped, in this run or a later one."""

import json
import re
import time
from pathlib import Path

import requests

from basemake.errors import BandError
from basemake.web.credentials import Credentials
from basemake.web.progress import Progress
from basemake.web.session import BROKEN_BODY, Interrupted, Patience, Session

CHUNK = 1 << 20
# The multihash prefixes of the checksums that STAC's file extension is seen to have.
DIGESTS = {"1114": "sha1", "1220": "sha256", "1340": "sha512", "d50110": "md5"}
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


class Refused(Exception):
    """The service does not accept the credentials, or wants some."""


def digest_of(checksum: str | None) -> tuple[str, str] | None:
    """Return the algorithm and the digits of a multihash; None if its kind is not known here."""
    text = (checksum or "").lower()
    for prefix, algorithm in DIGESTS.items():
        if text.startswith(prefix):
            return algorithm, text.removeprefix(prefix)
    return None


def sidecar_path(part: Path) -> Path:
    """Return the path of the JSON file that identifies the object a .part file belongs to."""
    return part.with_name(part.name + ".json")


class Download:
    """One band on its way from the web to its part file."""

    def __init__(
        self,
        href: str,
        part: Path,
        size: int | None,
        checksum: str | None,
        session: Session,
        credentials: Credentials,
        limits: dict,
        progress: Progress,
    ) -> None:
        """Go on with what is there of the same object."""
        self._href, self._part, self._size = href, part, size
        self._session, self._credentials = session, credentials
        self._limits, self._progress = limits, progress
        self._object = {"href": href, "size": size, "checksum": checksum}
        self._proven = digest_of(checksum) is not None  # by then, when all is there
        try:
            known = dict(json.loads(sidecar_path(part).read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            known = {}
        same = {key: known.get(key) for key in self._object} == self._object
        # Without a validator nobody can tell whether what follows belongs to what is there.
        self._validator = known.get("validator") if same and part.exists() else None
        if self._validator is None:
            part.unlink(missing_ok=True)

    def run(self) -> None:
        """Fetch all of the object to the part file, with patience."""
        patience, refusals, reached = Patience(self._limits), 0, self._there()
        while True:
            try:
                self._stretch()
                return
            except Refused as refusal:
                refusals += 1
                if refusals > 1 or not self._credentials.renew():
                    raise BandError(
                        f"the service refuses access ({refusal}); check the source's credentials,"
                        " and that they may read this data."
                    ) from None
            except Interrupted as failure:
                if self._there() > reached:  # not if it only comes again from the start
                    reached = self._there()
                    patience.progressed()
                patience.wait(failure)

    def _there(self) -> int:
        """Return the bytes that are there and can be gone on from."""
        return self._part.stat().st_size if self._validator else 0

    def _stretch(self) -> None:
        """Fetch from where the part ends; Interrupted if it breaks off, Refused if it may not."""
        start = self._there()
        if start and start == self._size:
            return
        address = self._credentials.address(self._href)
        headers = {"Accept-Encoding": "identity", **self._credentials.headers(address)}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": str(self._validator)}
        with self._session.get(address, headers=headers, stream=True) as answer:
            if answer.status_code in (401, 403):
                raise Refused(f"{answer.status_code} {answer.reason}")
            if answer.status_code == 416:
                whole = answer.headers.get("Content-Range", "") == f"bytes */{start}"
                if whole and self._is_same(answer):
                    return  # all of it was there
                self._validator = None
                raise Interrupted("the service does not have the rest of what was begun")
            if answer.status_code not in (200, 206):
                raise BandError(_refusal(answer))
            total = None
            if answer.status_code == 200:
                start = 0
                # Before what follows is kept: a killed job must not leave it beside older bytes.
                self._part.unlink(missing_ok=True)
                self._remember(_validator(answer))
            else:
                given = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                if not given or int(given[1]) != start or not self._is_same(answer):
                    self._validator = None
                    raise Interrupted("the service did not send the rest of what was begun")
                total = None if given[2] == "*" else int(given[2])
            self._receive(answer, start, total)

    def _is_same(self, answer: requests.Response) -> bool:
        """Say whether a partial answer is of the object that was begun: not all heed If-Range.

        A service may leave the date out of such an answer (RFC 9110, 15.3.7). Then only a checksum,
        which is compared when all is there, can tell a mixture of two objects.
        """
        validator = _validator(answer)
        return self._proven if validator is None else validator == self._validator

    def _remember(self, validator: str | None) -> None:
        """Keep what tells whether the object is still the same when it is gone on with."""
        self._validator = validator
        sidecar_path(self._part).write_text(json.dumps({**self._object, "validator": validator}))

    def _receive(self, answer: requests.Response, start: int, total: int | None) -> None:
        """Append the answer's body from byte `start` on; Interrupted if it ends early or stalls.

        `total` is what the object has, as the answer says, or None if it does not.
        """
        length = answer.raw.length_remaining  # None if the header is missing or no number
        total = self._size or total or (None if length is None else start + length)
        stall = self._limits["stall"]
        window, came = time.monotonic(), 0
        with self._part.open("r+b" if start else "wb") as file:
            file.seek(start)
            try:
                # read1 returns what has come: read would wait until a slow line fills a chunk.
                while chunk := answer.raw.read1(CHUNK):
                    file.write(chunk)
                    came += len(chunk)
                    self._progress.update(file.tell(), total)
                    if total is not None and file.tell() > total:
                        return  # what is larger than it should be may have no end
                    elapsed = time.monotonic() - window
                    if elapsed > stall["seconds"]:
                        if came < stall["bytes_per_second"] * elapsed:
                            raise Interrupted(f"less than {stall['bytes_per_second']} bytes/s came")
                        window, came = time.monotonic(), 0
            except BROKEN_BODY:
                raise Interrupted("the transfer broke off") from None
            if total is not None and file.tell() < total:
                raise Interrupted(f"the transfer ended at {file.tell()} of {total} bytes")


def _validator(answer: requests.Response) -> str | None:
    """Return what tells whether an object is still the same; a weak ETag does not."""
    etag = answer.headers.get("ETag", "")
    strong = etag if etag and not etag.startswith("W/") else None
    return strong or answer.headers.get("Last-Modified")


def _refusal(answer: requests.Response) -> str:
    status = f"{answer.status_code} {answer.reason}"
    if answer.status_code == 404:
        return f"the service does not have it ({status}); search again: `snakemake manifest`."
    return f"the service answers {status}; check the address and the source."
