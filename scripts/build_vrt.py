"""Build the VRT over all zones of a region, in Web Mercator."""

from pathlib import Path
from typing import Any

from basemake.pixels.vrt import build_mosaic

if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        build_mosaic(
            [Path(path) for path in snakemake.input],
            Path(snakemake.output.mosaic),
            attribution=snakemake.params.container["attribution"],
        )
