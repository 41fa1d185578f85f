"""Write a region's mosaic as one cloud-optimized GeoTIFF in Web Mercator."""

import json
from pathlib import Path
from typing import Any

from osgeo import gdal

COMPRESSION = {"webp": "WEBP", "png": "DEFLATE", "jpeg": "JPEG"}


def export_cog(
    mosaic: Path,
    output: Path,
    *,
    outline: dict | None,
    image_format: str,
    quality: int | str | None,
) -> None:
    """Write `mosaic`, a VRT in EPSG:3857, to `output`, cut along `outline`.

    `outline` is a GeoJSON geometry in degrees, or None to show all. The compression is that of the
    web tiles' format at their quality, as GDAL's COG driver has it.
    """
    options = {"COMPRESS": COMPRESSION[image_format], "OVERVIEW_RESAMPLING": "AVERAGE"}
    if quality is not None:
        options["QUALITY"] = "100" if quality == "lossless" else str(quality)  # 100 is lossless
    source = gdal.Open(str(mosaic))
    if outline is not None:
        feature = {"type": "Feature", "properties": {}, "geometry": outline}
        source = gdal.Warp("", source, format="VRT", cutlineDSName=json.dumps(feature))
    part = output.with_name(output.name + ".part")
    gdal.Translate(
        str(part),
        source,
        format="COG",
        creationOptions=[*(f"{key}={value}" for key, value in options.items()), "BIGTIFF=IF_SAFER"],
    )
    part.replace(output)


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.logs import job_log
    from basemake.raster import use_gdal
    from basemake.records import recorded

    with job_log(snakemake.log[0]), recorded(snakemake):
        use_gdal(snakemake.config["gdal_cache_mb"])
        export_cog(
            Path(snakemake.input.mosaic), Path(snakemake.output.image), **snakemake.params.settings
        )
