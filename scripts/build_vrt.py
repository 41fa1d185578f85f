"""Build the VRT over all zones of a region, in Web Mercator."""

from pathlib import Path
from typing import Any

from basemake.vrt import build_mosaic

if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.logs import job_log
    from basemake.raster import use_gdal
    from basemake.records import recorded

    with job_log(snakemake.log[0]), recorded(snakemake):
        use_gdal(snakemake.config["gdal_cache_mb"])
        build_mosaic([Path(path) for path in snakemake.input], Path(snakemake.output.mosaic))
