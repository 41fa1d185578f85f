"""Write a pyramid as MBTiles."""

from pathlib import Path
from typing import Any

from pmtiles.convert import pmtiles_to_mbtiles

if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.logs import job_log
    from basemake.records import recorded

    with job_log(snakemake.log[0]), recorded(snakemake):
        part = Path(snakemake.output.archive + ".part")
        part.unlink(missing_ok=True)
        pmtiles_to_mbtiles(snakemake.input.archive, str(part))
        part.replace(snakemake.output.archive)
