"""Write a region's map as one cloud-optimized GeoTIFF in Web Mercator, without its background."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from osgeo import gdal

from basemake.pixels.crs import crs
from basemake.pixels.picture import Picture, Rendering
from basemake.pixels.quadtree import leaves
from basemake.pixels.raster import close, telling_all
from basemake.pixels.tags import credit
from basemake.pixels.webtiles import WebTile, reached_by, resolution
from basemake.system.files import writing

COMPRESSION = {"webp": "WEBP", "png": "DEFLATE", "jpeg": "JPEG"}
# Of the file from which GDAL makes the COG, in a quarter of the bytes of its pixels.
LOSSLESS = ["COMPRESS=DEFLATE", "ZLEVEL=1", "PREDICTOR=2", "INTERLEAVE=PIXEL", "TILED=YES"]
LOSSLESS += ["PHOTOMETRIC=RGB", "ALPHA=YES", "BIGTIFF=YES", "SPARSE_OK=TRUE"]


class Part(NamedTuple):
    """A metatile: the enhanced tiles that may show in it, and its outline as in Rendering."""

    tiles: list[Path]
    outline: str | None


def export_cog(
    parts: Mapping[WebTile, Part],
    output: Path,
    rendering: Rendering,
    bounds: tuple[float, float, float, float],
    attribution: str = "",
) -> None:
    """Write the map of metatiles, as it is at the top zoom, to the COG `output`.

    Its pixels are those of the web map before they are encoded; it covers whole web tiles of the
    top zoom, as far as `bounds` (west, south, east and north in Mercator metres) reach into them.
    `attribution` is the credit that the pixels' licence asks for. The compression is that of
    `rendering`, as far as GDAL's COG driver has it. Raises TileError, naming it, if a tile cannot
    be read.
    """
    options = {
        "COMPRESS": COMPRESSION[rendering.image_format],
        "OVERVIEW_RESAMPLING": "AVERAGE",
        "BIGTIFF": "IF_SAFER",
    }
    quality = rendering.quality
    if quality is not None:
        options["QUALITY"] = "100" if quality == "lossless" else str(quality)  # 100 is lossless
    with writing(output) as part, telling_all():
        drawn = part.with_name(part.name + ".drawn")  # which goes with the part if this fails
        _draw(parts, drawn, rendering, bounds)
        source = gdal.Open(str(drawn))
        options["BLOCKSIZE"] = str(_block(source.RasterXSize, source.RasterYSize))
        creation = [f"{key}={value}" for key, value in options.items()]
        tags = [f"{key}={value}" for key, value in credit(attribution).items() if value]
        cog = gdal.Translate(
            str(part), source, format="COG", creationOptions=creation, metadataOptions=tags
        )
        close(cog)
        close(source)
        drawn.unlink()
        # GDAL does not always report that the last bytes could not be written.
        with tifffile.TiffFile(part) as tif:
            ends = (np.add(page.dataoffsets, page.databytecounts).max() for page in tif.pages)
            if max(ends) > part.stat().st_size:
                raise RuntimeError("its end is missing")


def _block(width: int, height: int) -> int:
    """Return the pixels a side of the blocks of a COG: GDAL's 512, or else 384.

    Validators take an image that is one block wide, and higher than 512 px, for one without blocks.
    Of one whose reduced images are ever 512 px wide, none is 384.
    """
    while width > 512:
        width, height = width // 2, height // 2
    return 384 if width == 512 < height else 512


def _draw(
    parts: Mapping[WebTile, Part],
    path: Path,
    rendering: Rendering,
    bounds: tuple[float, float, float, float],
) -> None:
    """Write the web tiles of the top zoom that `bounds` reach as one lossless GeoTIFF."""
    zoom, size = rendering.max_zoom, rendering.tile_size
    columns, rows = reached_by(bounds, zoom)
    blocks = [f"BLOCKXSIZE={size}", f"BLOCKYSIZE={size}"]
    driver = gdal.GetDriverByName("GTiff")
    shape = len(columns) * size, len(rows) * size
    image = driver.Create(str(path), *shape, 4, gdal.GDT_Byte, [*LOSSLESS, *blocks])
    west, _, _, north = WebTile(zoom, columns.start, rows.start).bounds
    pixel = resolution(zoom, size)
    image.SetGeoTransform((west, pixel, 0, north, 0, -pixel))
    image.SetSpatialRef(crs(3857))
    for metatile, (tiles, outline) in parts.items():
        picture = Picture(metatile, tiles, replace(rendering, outline=outline))
        for leaf in leaves(metatile, zoom, picture.may_show):
            if leaf.x in columns and leaf.y in rows:
                drawn = picture.draw(leaf)
                if drawn is not None:
                    place = (leaf.x - columns.start) * size, (leaf.y - rows.start) * size
                    image.WriteArray(np.moveaxis(drawn, -1, 0), *place)
    close(image)


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.pixels.raster import grid_known, keep_memory, set_up_libraries
    from basemake.pixels.webtiles import metatile_of
    from basemake.system.job_log import job_log

    found: dict[str, Any] = {}
    with job_log(snakemake.log[0]), recorded(snakemake, found):
        keep_memory()
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        settings = snakemake.params.settings
        paths = {Path(path).stem: Path(path) for path in snakemake.input}
        export_cog(
            {
                metatile_of(name): Part([paths[tile] for tile in tiles], outline)
                for name, (tiles, outline) in settings["metatiles"].items()
            },
            Path(snakemake.output.image),
            Rendering(**settings["rendering"], outline=None),
            settings["bounds"],
            snakemake.params.container["attribution"],
        )
        found |= grid_known(Path(snakemake.output.image))
