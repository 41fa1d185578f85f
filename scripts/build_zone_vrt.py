"""Build the VRT over the enhanced tiles of one UTM zone, and its view in Web Mercator."""

from pathlib import Path
from typing import Any

from basemake.pixels.vrt import build_mosaic, build_warped

if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        resampling = snakemake.params.settings["resampling"]
        attribution = snakemake.params.container["attribution"]
        zone = Path(snakemake.output.zone)
        build_mosaic([Path(path) for path in snakemake.input], zone, resampling, attribution)
        bounds, pixel = snakemake.params.settings["grid"]
        build_warped(zone, Path(snakemake.output.mercator), bounds, pixel, resampling, attribution)
