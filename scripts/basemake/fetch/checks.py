"""Whether a band is as promised, and errors of network and disk as one sentence."""

import errno
import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from osgeo import gdal

from basemake.errors import BandError, BasemakeError
from basemake.fetch.wanted import Wanted
from basemake.pixels.cog import LARGEST_BLOCK, LARGEST_SIDE
from basemake.pixels.raster import decode, open_geotiff
from basemake.web.addresses import without_secrets
from basemake.web.download import Parts, Promised, digest_of

DTYPES = {gdal.GDT_Byte: "uint8", gdal.GDT_UInt16: "uint16", gdal.GDT_Int16: "int16"}


class Damaged(Exception):
    """A block that was fetched cannot be decoded."""


@contextmanager
def told_as_band_errors(band: Wanted) -> Iterator[None]:
    """Turn errors of the network and the disk, and basemake's own, into a BandError."""
    place = band.title
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
        problem = _problem_of_disk(error, band.output.parent, band.promised.size)
        raise BandError(f"{place}: {problem}") from None
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


def check_room(band: Wanted, needed: int) -> None:
    """Raise BandError if the disk has too little room for `needed` more bytes."""
    free = shutil.disk_usage(band.output.parent).free
    if needed > free:
        raise BandError(
            f"it needs {needed / 1e6:.1f} MB, and the disk of {band.output.parent} has"
            f" {free / 1e6:.1f} MB free; make room, or set keep_bands: false and prune what it no"
            " longer keeps (make prune), and run again."
        )


def verify(part: Path, promised: Promised) -> None:
    """Raise BandError if the file is not as promised, or not a GeoTIFF band that can be read."""
    comparable = _verify_bytes(part, promised)
    verify_raster(part, promised.dtype)
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


def verify_parts(parts: Parts, promised: Promised) -> None:
    """Compare the checksum of an object that came whole, but in parts; Damaged if it differs."""
    known = digest_of(promised.checksum)
    if known is not None:
        algorithm, expected = known
        found = parts.digest(algorithm)
        if found not in (None, expected):
            raise Damaged(f"the {algorithm} of the object is {found}, the item promises {expected}")


def verify_raster(part: Path, dtype: str | None) -> None:
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
