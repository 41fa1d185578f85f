"""Write a pyramid as MBTiles."""

from pathlib import Path
from typing import Any

from pmtiles.convert import pmtiles_to_mbtiles

if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.logs import job_log

    with job_log(snakemake.log[0]):
        part = Path(snakemake.output[0] + ".part")
        part.unlink(missing_ok=True)
        pmtiles_to_mbtiles(snakemake.input[0], str(part))
        part.replace(snakemake.output[0])
