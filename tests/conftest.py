"""What tests share: real data where it lies beside the checkout, and rasters built on demand."""

import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from osgeo import gdal, osr

from basemake.pixels.dn import DnReading
from basemake.pixels.raster import set_up_libraries
from enhance_tile import Enhancement, enhance_tile

CHECKOUT = Path(__file__).resolve().parents[1]
set_up_libraries(64)
# Tests that run in the background begin with SIGINT ignored, and would hand that on.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes depends on what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real Sentinel-2 and Landsat pixels; skips where it is missing."""
    folder = CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("skipped: real data not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def write_geotiff():
    """A function that writes an array, (height, width) or bands first, as a GeoTIFF."""

    def write(
        path: Path,
        array: np.ndarray,
        origin: tuple[float, float] = (500_000.0, 5_000_000.0),
        pixel: float = 10.0,
        epsg: int = 32633,
        options: tuple[str, ...] = (),
    ) -> Path:
        bands = array if array.ndim == 3 else array[np.newaxis]
        types = {"uint8": gdal.GDT_Byte, "int16": gdal.GDT_Int16, "uint16": gdal.GDT_UInt16}
        kind = types.get(array.dtype.name, gdal.GDT_Float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = bands.shape[1:]
        driver = gdal.GetDriverByName("GTiff")
        dataset = driver.Create(str(path), width, height, len(bands), kind, list(options))
        srs = osr.SpatialReference()
        srs.ImportFromEPSG(epsg)
        dataset.SetSpatialRef(srs)
        dataset.SetGeoTransform((origin[0], pixel, 0, origin[1], 0, -pixel))
        for number, band in enumerate(bands, 1):
            dataset.GetRasterBand(number).WriteArray(band)
        del dataset
        return path

    return write


@pytest.fixture(scope="session")
def write_tile(write_geotiff, tmp_path_factory):
    """A function that writes RGBA (height, width, 4), alpha 0 or 255, as an enhanced tile."""
    folder = tmp_path_factory.mktemp("bands")
    as_they_are = DnReading(1 / 255, 0.0, -1)

    def write(path: Path, rgba: np.ndarray, epsg: int = 32633, **grid) -> Path:
        dn = np.where(rgba[..., 3:] > 0, rgba[..., :3].astype(np.int16), -1)
        bands = [
            write_geotiff(folder / f"{n}.tif", dn[..., n], epsg=epsg, **grid) for n in range(3)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        enhancement = Enhancement(epsg, [], as_they_are, "zstd")
        enhance_tile(bands, path, enhancement, metadata={}, threads=1)
        return path

    return write


@pytest.fixture(scope="session")
def files_limited_to():
    """A function that keeps files from growing beyond so many bytes: as if the disk were full."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture
def disk_with_room(tmp_path: Path):
    """A function that returns an empty folder on a file system of its own, of so many bytes."""
    mounted = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("skipped: mounting a small file system takes root's rights")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
