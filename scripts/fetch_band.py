"""Fetch one band of a tile from a file, the web or an object store, verified, to results/bands/."""

import errno
import hashlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import requests
from osgeo import gdal

from basemake.credentials import Credentials
from basemake.errors import BandError, BasemakeError
from basemake.hrefs import check_url, is_remote, without_secrets
from basemake.network import BROKEN, Interrupted, Patience, Session
from basemake.progress import Progress
from basemake.raster import open_geotiff

CHUNK = 1 << 20
# The multihash prefixes of the checksums that STAC's file extension is seen to have.
DIGESTS = {"1114": "sha1", "1220": "sha256", "1340": "sha512", "d50110": "md5"}
DTYPES = {gdal.GDT_Byte: "uint8", gdal.GDT_UInt16: "uint16", gdal.GDT_Int16: "int16"}


def fetch_band(
    href: str,
    output: Path,
    *,
    size: int | None,
    checksum: str | None,
    dtype: str | None,
    hosts: set[str],
    limits: dict,
    credentials: Credentials,
    progress: Progress,
) -> None:
    """Write the band at `href` to `output`, whole or not at all.

    `size` is in bytes, `checksum` a hexadecimal multihash; None where the item gives none. `dtype`
    is the data type that the source promises, or None. Redirects are followed to `hosts` only. A
    download that was broken off goes on where it stopped, now and in a later run, as long as the
    object is the same. Raises BandError, or another BasemakeError, one sentence with the href, if
    the bytes cannot be had or are not those that the item promises.
    """
    part = output.with_name(output.name + ".part")
    try:
        for last in (False, True):
            if is_remote(href):
                session = Session(limits, hosts, credentials.hosts)
                with session:
                    Download(
                        href, part, size, checksum, session, credentials, limits, progress
                    ).run()
            else:
                shutil.copyfile(href, part)
            try:
                _verify_bytes(part, size, checksum)
                _verify_raster(part, dtype)
                break
            except BandError as error:
                part.unlink()
                if last or not is_remote(href):
                    raise
                logging.warning("%s: %s Trying once more.", without_secrets(href), error)
    except requests.TooManyRedirects:
        raise BandError(f"{without_secrets(href)}: the service redirects without end.") from None
    except requests.RequestException as error:  # its own words hold the whole address
        raise BandError(f"{without_secrets(href)}: {type(error).__name__}.") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(output.parent).free
            need = f"{size / 1e6:.0f} MB" if size else "an unknown size"
            raise BandError(
                f"the disk of {output.parent} is full: {href} has {need}, and"
                f" {free / 1e6:.0f} MB are free; make room and run again."
            ) from None
        raise BandError(f"{href}: {error.strerror} ({error.filename}); run again.") from None
    except BasemakeError as error:
        raise BandError(f"{without_secrets(href)}: {error}") from None
    part.replace(output)
    _about(part).unlink(missing_ok=True)
    logging.info("%s: %d bytes", without_secrets(href), output.stat().st_size)


class Refused(Exception):
    """The service does not accept the credentials, or wants some."""


def _about(part: Path) -> Path:
    """Return the file that says what a part is a part of."""
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
        try:
            about = json.loads(_about(part).read_text())
        except (OSError, ValueError):
            about = {}
        same = {key: about.get(key) for key in self._object} == self._object
        # Without a validator nobody can tell whether what follows belongs to what is there.
        self._validator = about.get("validator") if same and part.exists() else None
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
        check_url(address, self._session.hosts)
        with self._session.get(address, headers=headers, stream=True) as answer:
            if answer.status_code in (401, 403):
                raise Refused(f"{answer.status_code} {answer.reason}")
            if answer.status_code == 416:
                if answer.headers.get("Content-Range", "") == f"bytes */{start}":
                    return  # all of it was there
                self._validator = None
                raise Interrupted("the service does not have the rest of what was begun")
            if answer.status_code not in (200, 206):
                raise BandError(_refusal(answer))
            if answer.status_code == 200:
                start = 0
                # Before what follows is kept: a killed job must not leave it beside older bytes.
                self._part.unlink(missing_ok=True)
                self._remember(_validator(answer))
            elif (
                not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
                or _validator(answer) not in (None, self._validator)
            ):  # not all services heed If-Range
                self._validator = None
                raise Interrupted("the service sent another range than was asked for")
            self._receive(answer, start)

    def _remember(self, validator: str | None) -> None:
        """Keep what tells whether the object is still the same when it is gone on with."""
        self._validator = validator
        _about(self._part).write_text(json.dumps({**self._object, "validator": validator}))

    def _receive(self, answer: requests.Response, start: int) -> None:
        """Append the answer's body from byte `start` on; Interrupted if it ends early or stalls."""
        length = answer.headers.get("Content-Length")
        total = self._size or (None if length is None else start + int(length))
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
                    elapsed = time.monotonic() - window
                    if elapsed > stall["seconds"]:
                        if came < stall["bytes_per_second"] * elapsed:
                            raise Interrupted(f"less than {stall['bytes_per_second']} bytes/s came")
                        window, came = time.monotonic(), 0
            except BROKEN:
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


def _verify_bytes(part: Path, size: int | None, checksum: str | None) -> None:
    found = part.stat().st_size
    if size is not None and found != size:
        raise BandError(
            f"{found} bytes came, the item promises {size}; search again: `snakemake manifest`."
        )
    if checksum is None:
        return
    prefix = next((p for p in DIGESTS if checksum.lower().startswith(p)), None)
    if prefix is None:
        logging.warning("checksum %s is of an unknown kind and was not compared", checksum)
        return
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, DIGESTS[prefix]).hexdigest()
    promised = checksum[len(prefix) :].lower()
    if digest != promised:
        raise BandError(
            f"its {DIGESTS[prefix]} is {digest}, the item promises {promised};"
            " run again, or search again: `snakemake manifest`."
        )


def _verify_raster(part: Path, dtype: str | None) -> None:
    """Check that the file is a GeoTIFF of one band of at most 16 bits."""
    try:
        with open_geotiff(part) as dataset:
            found = DTYPES.get(dataset.GetRasterBand(1).DataType)
            bands, placed = dataset.RasterCount, dataset.GetSpatialRef() is not None
    except RuntimeError as error:
        raise BandError(f"it is not a GeoTIFF ({error}); open it to see what it is.") from None
    if bands != 1 or not placed or found is None or dtype not in (None, found):
        raise BandError(
            f"it has {bands} band(s) of {found or 'another type'},"
            f" {'with' if placed else 'without'} a CRS; allowed: one band of"
            f" {dtype or 'uint8, int16 or uint16'}, with a CRS."
        )


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.config import read_source
    from basemake.credentials import credentials_of
    from basemake.hrefs import allowed_hosts
    from basemake.logs import job_log
    from basemake.raster import use_gdal

    with job_log(snakemake.log[0]):
        use_gdal(snakemake.config["gdal_cache_mb"])
        source = read_source(snakemake.config["source"])
        fetch_band(
            snakemake.params.href,
            Path(snakemake.output[0]),
            size=snakemake.params.size,
            checksum=snakemake.params.checksum,
            dtype=source["dn"].get("dtype"),
            hosts=allowed_hosts(source),
            limits=source["limits"],
            credentials=credentials_of(source),
            progress=Progress(f"{snakemake.wildcards.tile} {snakemake.wildcards.band}"),
        )
