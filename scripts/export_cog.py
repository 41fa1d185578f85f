"""Write a region's mosaic as one cloud-optimized GeoTIFF in Web Mercator."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from osgeo import gdal
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from basemake.errors import TileError
from basemake.pixels.raster import close, telling_all
from basemake.system.files import writing

COMPRESSION = {"webp": "WEBP", "png": "DEFLATE", "jpeg": "JPEG"}


def export_cog(
    mosaic: Path,
    output: Path,
    *,
    outline: BaseGeometry | None,
    image_format: str,
    quality: int | str | None,
) -> None:
    """Write `mosaic`, a VRT in EPSG:3857, to the COG `output`, cut along `outline`.

    `outline` is in degrees; None shows all. The compression is that of the web tiles' format at
    their `quality`, as far as GDAL's COG driver has it. Raises TileError if a tile cannot be read.
    """
    options = {"COMPRESS": COMPRESSION[image_format], "OVERVIEW_RESAMPLING": "AVERAGE"}
    if quality is not None:
        options["QUALITY"] = "100" if quality == "lossless" else str(quality)  # 100 is lossless
    creation = [*(f"{key}={value}" for key, value in options.items()), "BIGTIFF=IF_SAFER"]
    try:
        with writing(output) as part, telling_all():
            _write(mosaic, part, outline, creation)
    except RuntimeError as error:
        raise TileError(
            f"{output} cannot be made ({error}); delete the tile that this names and run again."
        ) from error


def _write(mosaic: Path, part: Path, outline: BaseGeometry | None, creation: list[str]) -> None:
    source = gdal.Open(str(mosaic))
    if outline is not None:
        feature = {"type": "Feature", "properties": {}, "geometry": mapping(outline)}
        source = gdal.Warp("", source, format="VRT", cutlineDSName=json.dumps(feature))
    close(gdal.Translate(str(part), source, format="COG", creationOptions=creation))
    # GDAL does not always report that the last bytes could not be written.
    with tifffile.TiffFile(part) as tif:
        ends = (np.add(page.dataoffsets, page.databytecounts).max() for page in tif.pages)
        if max(ends) > part.stat().st_size:
            raise RuntimeError("its end is missing")


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        settings = snakemake.params.settings
        outline = settings["outline"] and shape(settings["outline"])
        export_cog(
            Path(snakemake.input.mosaic),
            Path(snakemake.output.image),
            **{**settings, "outline": outline},
        )
