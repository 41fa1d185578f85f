"""Build the VRT over the enhanced tiles of one UTM zone, and its view in Web Mercator."""

from pathlib import Path
from typing import Any

from basemake.vrt import build_mosaic, build_warped

if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.logs import job_log
    from basemake.raster import use_gdal

    with job_log(snakemake.log[0]):
        use_gdal(snakemake.config["gdal_cache_mb"])
        resampling = snakemake.params.resampling
        zone = Path(snakemake.output.zone)
        build_mosaic([Path(path) for path in snakemake.input], zone, resampling)
        bounds, pixel = snakemake.params.grid
        build_warped(zone, Path(snakemake.output.mercator), bounds, pixel, resampling)
