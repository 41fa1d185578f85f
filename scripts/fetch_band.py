"""Fetch one band of a tile from a file, the web or an object store, verified, to results/bands/."""

import errno
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import requests
from osgeo import gdal

from basemake.errors import BandError, BasemakeError
from basemake.pixels.raster import decode, open_geotiff
from basemake.system.files import replace
from basemake.web.addresses import is_remote, without_secrets
from basemake.web.credentials import Credentials
from basemake.web.download import Download, about, digest_of
from basemake.web.progress import Progress
from basemake.web.session import Session

LARGEST_SIDE = 50_000  # pixels; a tile has 10 008, a scene at most 11 000
LARGEST_BLOCK = 1 << 27  # pixels: a scene that is one block still fits
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
    object is the same. Raises BandError, one sentence with the href, if the disk cannot hold the
    bytes (then none is asked for), they cannot be had or are not those that the item promises.
    """
    part, place = output.with_name(output.name + ".part"), without_secrets(href)
    try:
        _check_room(part, size)
        for last in (False, True):
            if is_remote(href):
                session = Session(limits, hosts, credentials.origins)
                with session:
                    Download(
                        href, part, size, checksum, session, credentials, limits, progress
                    ).run()
            else:
                shutil.copyfile(href, part)
            try:
                promised = _verify_bytes(part, size, checksum)
                # What an item promises of its bytes is cheap to compare. Without that a file that
                # ends early is found only by decoding it, which takes 1 s of CPU for a tile's band.
                _verify_raster(part, dtype, every_block=not promised)
                break
            except BandError as error:
                part.unlink()
                if last or not is_remote(href):
                    raise
                logging.warning("%s: %s Trying once more.", place, error)
        replace(part, output)
    except requests.TooManyRedirects:
        raise BandError(f"{place}: the service redirects without end.") from None
    except requests.RequestException as error:  # its own words hold the whole address
        raise BandError(
            f"{place}: the service's answer is not as HTTP has it ({type(error).__name__}); check"
            " the address and the source."
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = shutil.disk_usage(output.parent).free
            need = f"{size / 1e6:.1f} MB" if size else "an unknown size"
            raise BandError(
                f"the disk of {output.parent} is full: {place} has {need}, and"
                f" {free / 1e6:.1f} MB are free; make room and run again."
            ) from None
        file = f" ({without_secrets(str(error.filename))})" if error.filename else ""
        raise BandError(
            f"{place}: {error.strerror or type(error).__name__}{file}; run again."
        ) from None
    except BasemakeError as error:
        raise BandError(f"{place}: {error}") from None
    about(part).unlink(missing_ok=True)
    logging.info("%s: %d bytes", place, output.stat().st_size)


def _check_room(part: Path, size: int | None) -> None:
    needed = (size or 0) - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise BandError(
            f"it needs {needed / 1e6:.1f} MB, and the disk of {part.parent} has {free / 1e6:.1f} MB"
            " free; make room, or set keep_bands: false and prune what it no longer keeps"
            " (make prune), and run again."
        )


def _verify_bytes(part: Path, size: int | None, checksum: str | None) -> bool:
    """Compare size and checksum with those that are known; say whether any was."""
    found = part.stat().st_size
    if size is not None and found != size:
        raise BandError(
            f"{found} bytes came, the item promises {size}; search again: `snakemake manifest`."
        )
    known = digest_of(checksum)
    if known is None:
        if checksum is not None:
            logging.warning("checksum %r is of an unknown kind and was not compared", checksum)
        return size is not None
    algorithm, promised = known
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    if digest != promised:
        raise BandError(
            f"its {algorithm} is {digest}, the item promises {promised};"
            " run again, or search again: `snakemake manifest`."
        )
    return True


def _verify_raster(part: Path, dtype: str | None, every_block: bool) -> None:
    """Check that the file is a GeoTIFF of one band of at most 16 bits, not too large, and whole.

    That each of its blocks can be decoded is seen only by decoding it, if `every_block` says so.
    """
    try:
        with open_geotiff(part) as dataset:
            first = dataset.GetRasterBand(1)
            found = DTYPES.get(first.DataType)
            bands, placed = dataset.RasterCount, dataset.GetSpatialRef() is not None
            sides, block = (dataset.RasterXSize, dataset.RasterYSize), first.GetBlockSize()
    except RuntimeError as error:
        raise BandError(f"it is not a GeoTIFF ({error}); open it to see what it is.") from None
    if bands != 1 or not placed or found is None or dtype not in (None, found):
        raise BandError(
            f"it has {bands} band(s) of {found or 'another type'},"
            f" {'with' if placed else 'without'} a CRS; allowed: one band of"
            f" {dtype or 'uint8, int16 or uint16'}, with a CRS."
        )
    # A file of some hundred bytes can claim any size, and later jobs would make room for it.
    if max(sides) > LARGEST_SIDE or block[0] * block[1] > LARGEST_BLOCK:
        raise BandError(
            f"it claims to have {sides[0]} x {sides[1]} pixels in blocks of {block[0]} x"
            f" {block[1]}; allowed: at most {LARGEST_SIDE} pixels a side, and {LARGEST_BLOCK} in a"
            " block."
        )
    if every_block:
        try:
            decode(part)
        except RuntimeError as error:
            raise BandError(f"it is not whole, or damaged ({error}); run again.") from None


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.config import read_source
    from basemake.build.records import recorded
    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log
    from basemake.web.addresses import allowed_hosts
    from basemake.web.credentials import credentials_of

    with job_log(snakemake.log[0]), recorded(snakemake):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        source = read_source(snakemake.config["source"])
        settings = snakemake.params.settings
        # A file of this machine must still be the one that the search found: a multihash of it.
        digest = settings["digest"] and f"1220{settings['digest']}"
        label = f"tile {snakemake.wildcards.tile}, band {snakemake.wildcards.band}"
        try:
            fetch_band(
                snakemake.params.href,
                Path(snakemake.output.band),
                size=settings["size"],
                checksum=settings["checksum"] or digest,
                dtype=source["dn"].get("dtype"),
                hosts=allowed_hosts(source),
                limits=source["limits"],
                credentials=credentials_of(source),
                progress=Progress(f"{snakemake.wildcards.tile} {snakemake.wildcards.band}"),
            )
        except BasemakeError as error:
            raise BandError(f"{label}: {error}") from None
