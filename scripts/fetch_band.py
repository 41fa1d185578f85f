"""Fetch one band of a tile from a file or a web address, verified, to results/bands/."""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
from osgeo import gdal
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from basemake import __version__
from basemake.errors import BandError
from basemake.hrefs import check_url, is_url
from basemake.raster import open_geotiff

CHUNK = 1 << 20
TIMEOUT = (10, 60)  # seconds to connect, and between two reads
REDIRECTS = 5
DIGESTS = {"11": "sha1", "12": "sha256", "13": "sha512", "d5": "md5"}
DTYPES = {gdal.GDT_Byte: "uint8", gdal.GDT_UInt16: "uint16", gdal.GDT_Int16: "int16"}


def fetch_band(
    href: str, output: Path, *, size: int | None, checksum: str | None, dtype: str | None,
    hosts: set[str],
) -> None:  # fmt: skip
    """Write the band at `href` to `output`, whole or not at all.

    `size` is in bytes, `checksum` a hexadecimal multihash; None where the item gives none. `dtype`
    is the data type that the source promises, or None. Redirects are followed to `hosts` only.
    Raises BandError if the bytes cannot be had or are not those that the item promises.
    """
    part = output.with_name(output.name + ".part")
    try:
        if is_url(href):
            _download(href, part, hosts)
        else:
            shutil.copyfile(href, part)
        _verify_bytes(part, size, checksum)
        _verify_raster(part, dtype)
    except (requests.RequestException, OSError) as error:
        raise BandError(f"{href} cannot be had: {error}; run again to try once more.") from error
    except BandError as error:
        part.unlink(missing_ok=True)
        raise BandError(f"{href}: {error}") from None
    part.replace(output)
    logging.info("%s: %d bytes", href, output.stat().st_size)


def _download(url: str, part: Path, hosts: set[str]) -> None:
    """Stream a web address to `part`."""
    with requests.Session() as session:
        session.headers["User-Agent"] = f"basemake/{__version__}"
        retry = Retry(total=5, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504))
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        for _ in range(REDIRECTS + 1):
            check_url(url, hosts)
            # Redirects are followed here, so that each goes to an allowed host only.
            with session.get(url, stream=True, timeout=TIMEOUT, allow_redirects=False) as answer:
                if answer.is_redirect:
                    url = urljoin(url, answer.headers["Location"])
                    continue
                if answer.status_code != requests.codes.ok:
                    raise BandError(f"{answer.status_code} {answer.reason}")
                with part.open("wb") as file:
                    for chunk in answer.iter_content(CHUNK):
                        file.write(chunk)
                return
    raise BandError(f"more than {REDIRECTS} redirects")


def _verify_bytes(part: Path, size: int | None, checksum: str | None) -> None:
    found = part.stat().st_size
    if size is not None and found != size:
        raise BandError(f"{found} bytes came, the item promises {size}; try again later.")
    if checksum is None:
        return
    name = DIGESTS.get(checksum[:2].lower())
    if name is None:
        logging.warning("checksum %s is of an unknown kind and was not compared", checksum)
        return
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, name).hexdigest()
    if digest != checksum[4:].lower():
        raise BandError(f"its {name} is {digest}, the item promises {checksum[4:]}.")


def _verify_raster(part: Path, dtype: str | None) -> None:
    """Check that the file is a GeoTIFF of one band of at most 16 bits."""
    try:
        with open_geotiff(part) as dataset:
            found = DTYPES.get(dataset.GetRasterBand(1).DataType)
            bands, placed = dataset.RasterCount, dataset.GetSpatialRef() is not None
    except RuntimeError as error:
        raise BandError(f"it is not a GeoTIFF ({error})") from None
    if bands != 1 or not placed or found is None or dtype not in (None, found):
        raise BandError(
            f"it has {bands} band(s) of {found or 'another type'}, "
            f"{'with' if placed else 'without'} a CRS; allowed: one band of"
            f" {dtype or 'uint8, int16 or uint16'}, with a CRS."
        )


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.config import read_source
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
        )
