"""Decoding GeoTIFFs, and settings of libraries."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal

from basemake.pixels.raster import decode

SETTINGS = """
import os
import cv2
cv2.setNumThreads(3)
before = dict(os.environ)
import enhance_tile, render_metatile, render_overview
assert cv2.getNumThreads() == 3
assert dict(os.environ) == before
from basemake.pixels.raster import set_up_libraries
set_up_libraries(64)
assert cv2.getNumThreads() == 1
"""


def test_libraries_are_set_up_by_a_job_and_not_by_an_import() -> None:
    scripts = Path(__file__).parents[2] / "scripts"
    subprocess.run([sys.executable, "-c", SETTINGS], cwd=scripts, check=True)


@pytest.mark.parametrize("compression", ["NONE", "DEFLATE", "LZW"])
@pytest.mark.parametrize("layout", ["strips", "tiles", "reduced", "COG"])
def test_decoding_finds_every_block_that_is_missing(
    tmp_path: Path, write_geotiff, compression: str, layout: str
) -> None:
    noise = np.random.default_rng(3).integers(1, 9999, (700, 900), dtype=np.int16)
    options = [f"COMPRESS={compression}", *(["TILED=YES"] if layout == "tiles" else [])]
    path = write_geotiff(tmp_path / "a.tif", noise, options=tuple(options))
    if layout == "reduced":
        gdal.Open(str(path), gdal.GA_Update).BuildOverviews("NEAREST", [2])
    elif layout == "COG":
        options = [options[0], "BLOCKSIZE=256"]
        gdal.Translate(str(tmp_path / "b.tif"), str(path), format="COG", creationOptions=options)
        path = tmp_path / "b.tif"
    decode(path)
    content = path.read_bytes()
    for missing in (20, len(content) // 10, len(content) // 2):
        path.write_bytes(content[:-missing])
        with pytest.raises(RuntimeError):
            decode(path)
