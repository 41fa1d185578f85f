"""Fetch one band of a tile to results/bands/ from a file, the web or S3, and verify it."""

import errno
import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from osgeo import gdal

from basemake.errors import BandError, BasemakeError
from basemake.pixels.raster import decode, open_geotiff
from basemake.system.files import part_of, replace
from basemake.web.access import Access
from basemake.web.addresses import is_remote, without_secrets
from basemake.web.download import Download, Promised, digest_of, sidecar_path
from basemake.web.progress import Progress

LARGEST_SIDE = 50_000  # pixels; a tile has 10 008, a scene at most 11 000
LARGEST_BLOCK = 1 << 27  # pixels; a whole scene in one block fits
DTYPES = {gdal.GDT_Byte: "uint8", gdal.GDT_UInt16: "uint16", gdal.GDT_Int16: "int16"}


def fetch_band(
    href: str, output: Path, promised: Promised, access: Access, progress: Progress
) -> None:
    """Write the band at `href`, a path or an address, to `output`, complete or not at all.

    An interrupted download resumes where it stopped, in this run or a later one, if the object has
    not changed. Raises BandError, one sentence with the href, if the disk has too little room (then
    nothing is requested), or the band cannot be fetched or is not as `promised`.
    """
    part, place = part_of(output), without_secrets(href)
    with _told_as_band_errors(place, output.parent, promised.size):
        _check_room(part, promised.size)
        _get_verified(href, part, promised, access, progress)
        replace(part, output)
    sidecar_path(part).unlink(missing_ok=True)
    logging.info("%s: %d bytes", place, output.stat().st_size)


def _get_verified(
    href: str, part: Path, promised: Promised, access: Access, progress: Progress
) -> None:
    """Write the band at `href` to `part` and verify it; a download that fails this is repeated."""
    for last in (False, True) if is_remote(href) else (True,):
        if is_remote(href):
            Download(href, part, promised, access, progress).run()
        else:
            shutil.copyfile(href, part)
        try:
            _verify(part, promised)
            break
        except BandError as error:
            part.unlink()
            if last:
                raise
            logging.warning("%s: %s Trying once more.", without_secrets(href), error)


@contextmanager
def _told_as_band_errors(place: str, folder: Path, size: int | None) -> Iterator[None]:
    """Turn errors of the network and the disk, and basemake's own, into a BandError with `place`.

    `folder` is that of the output; `size` is the band's in bytes, or None.
    """
    try:
        yield
    except requests.TooManyRedirects:
        raise BandError(f"{place}: the service redirects without end.") from None
    except requests.RequestException as error:  # its message holds the whole address
        raise BandError(
            f"{place}: the service's answer is not valid HTTP ({type(error).__name__}); check"
            " the address and the source."
        ) from None
    except OSError as error:
        raise BandError(f"{place}: {_problem_of_disk(error, folder, size)}") from None
    except BasemakeError as error:
        raise BandError(f"{place}: {error}") from None


def _problem_of_disk(error: OSError, folder: Path, size: int | None) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(folder).free
        need = f"{size / 1e6:.1f} MB" if size else "an unknown size"
        return (
            f"the disk of {folder} is full: the band needs {need}, and {free / 1e6:.1f} MB are"
            " free; make room and run again."
        )
    file = f" ({without_secrets(str(error.filename))})" if error.filename else ""
    return f"{error.strerror or type(error).__name__}{file}; run again."


def _check_room(part: Path, size: int | None) -> None:
    """Raise BandError if the disk has too little room for the bytes that `part` still lacks."""
    needed = (size or 0) - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise BandError(
            f"it needs {needed / 1e6:.1f} MB, and the disk of {part.parent} has {free / 1e6:.1f} MB"
            " free; make room, or set keep_bands: false and prune what it no longer keeps"
            " (make prune), and run again."
        )


def _verify(part: Path, promised: Promised) -> None:
    """Raise BandError if the file is not as promised, or not a GeoTIFF band that can be read."""
    comparable = _verify_bytes(part, promised)
    _verify_raster(part, promised.dtype)
    # Without a size or checksum a file that ends early is found only by decoding all of it, which
    # takes 1 s of CPU for a tile's band.
    if not comparable:
        try:
            decode(part)
        except RuntimeError as error:
            raise BandError(f"it is not whole, or damaged ({error}); run again.") from None


def _verify_bytes(part: Path, promised: Promised) -> bool:
    """Compare size and checksum with those promised; return whether either could be compared."""
    found = part.stat().st_size
    if promised.size is not None and found != promised.size:
        raise BandError(
            f"{found} bytes came, the item promises {promised.size}; search again:"
            " `snakemake manifest`."
        )
    known = digest_of(promised.checksum)
    if known is None:
        if promised.checksum is not None:
            logging.warning(
                "checksum %r is of an unknown kind and was not compared", promised.checksum
            )
        return promised.size is not None
    algorithm, expected = known
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    if digest != expected:
        raise BandError(
            f"its {algorithm} is {digest}, the item promises {expected};"
            " run again, or search again: `snakemake manifest`."
        )
    return True


def _verify_raster(part: Path, dtype: str | None) -> None:
    """Raise BandError unless the file is a GeoTIFF with a CRS and one band of at most 16 bits.

    Raises it, too, if width, height or block size are too large. No pixel is decoded.
    """
    try:
        with open_geotiff(part) as dataset:
            first = dataset.GetRasterBand(1)
            found = DTYPES.get(first.DataType)
            bands, placed = dataset.RasterCount, dataset.GetSpatialRef() is not None
            sides, block = (dataset.RasterXSize, dataset.RasterYSize), first.GetBlockSize()
    except RuntimeError as error:
        raise BandError(
            f"it is not a GeoTIFF ({error}); check the address and the source."
        ) from None
    if bands != 1 or not placed or found is None or dtype not in (None, found):
        raise BandError(
            f"it has {bands} band(s) of {found or 'another type'},"
            f" {'with' if placed else 'without'} a CRS; allowed: one band of"
            f" {dtype or 'uint8, int16 or uint16'}, with a CRS."
        )
    # A file of a few hundred bytes can claim any size, and later jobs would allocate it.
    if max(sides) > LARGEST_SIDE or block[0] * block[1] > LARGEST_BLOCK:
        raise BandError(
            f"it claims to have {sides[0]} x {sides[1]} pixels in blocks of {block[0]} x"
            f" {block[1]}; allowed: at most {LARGEST_SIDE} pixels a side, and {LARGEST_BLOCK} in a"
            " block."
        )


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.config import read_source
    from basemake.build.records import recorded
    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log
    from basemake.web.credentials import access_to

    with job_log(snakemake.log[0]), recorded(snakemake):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        source = read_source(snakemake.config["source"])
        settings = snakemake.params.settings
        # A local file must still be the one that the search found: its SHA-256 as a multihash.
        digest = settings["digest"] and f"1220{settings['digest']}"
        checksum = settings["checksum"] or digest
        label = f"tile {snakemake.wildcards.tile}, band {snakemake.wildcards.band}"
        try:
            fetch_band(
                snakemake.params.href,
                Path(snakemake.output.band),
                Promised(settings["size"], checksum, source.dn.get("dtype")),
                access_to(source),
                Progress(f"{snakemake.wildcards.tile} {snakemake.wildcards.band}"),
            )
        except BasemakeError as error:
            raise BandError(f"{label}: {error}") from None
