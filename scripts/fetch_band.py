"""Fetch one band of a tile from a file or a web address, verified, to results/bands/."""

import hashlib
import logging
import re
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
RETRY_AFTER_MAX = 60  # seconds: one Copernicus service tells milliseconds
REDIRECTS = 5
TRANSFERS = 4  # tries for a body that breaks off; urllib3 retries all that comes before a body
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
        message = f"{href} cannot be had: {error}; run again to try once more."
        raise BandError(_without_secrets(message)) from error
    except BandError as error:
        part.unlink(missing_ok=True)
        raise BandError(_without_secrets(f"{href}: {error}")) from None
    part.replace(output)
    logging.info("%s: %d bytes", _without_secrets(href), output.stat().st_size)


def _without_secrets(text: str) -> str:
    """Return `text` without the credentials and the signed queries of the addresses in it."""
    return re.sub(r"\?[^\s'\"]*=[^\s'\"]*", "?...", re.sub(r"//[^/@\s]*@", "//", text))


def _download(url: str, part: Path, hosts: set[str]) -> None:
    """Stream a web address to `part`, again from the start if it breaks off."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings hold whole addresses
    with requests.Session() as session:
        session.headers["User-Agent"] = f"basemake/{__version__}"
        retry = Retry(
            total=5,
            backoff_factor=1,
            status_forcelist=(429, 500, 502, 503, 504),
            retry_after_max=RETRY_AFTER_MAX,
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        for left in reversed(range(TRANSFERS)):
            with _get(session, url, hosts) as answer, part.open("wb") as file:
                try:
                    for chunk in answer.iter_content(CHUNK):
                        file.write(chunk)
                    return
                except requests.RequestException:
                    if left == 0:
                        raise
                    logging.warning("broke off after %d bytes; %d more tries", file.tell(), left)


def _get(session: requests.Session, url: str, hosts: set[str]) -> requests.Response:
    """Return the answer whose body is wanted; its redirects went to `hosts` only."""
    for _ in range(REDIRECTS + 1):
        check_url(url, hosts)
        answer = session.get(url, stream=True, timeout=TIMEOUT, allow_redirects=False)
        if answer.status_code == requests.codes.ok:
            return answer
        answer.close()
        if not answer.is_redirect:
            raise BandError(
                f"the server answers {answer.status_code} {answer.reason}; if that lasts,"
                " search again by `snakemake manifest`."
            )
        url = urljoin(url, answer.headers["Location"])
    raise BandError(f"it redirects more than {REDIRECTS} times; open it to see where it leads.")


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
        raise BandError(f"it is not a GeoTIFF ({error}); open it to see what it is.") from None
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
