"""Write a pyramid as MBTiles."""

from pathlib import Path
from typing import Any

from pmtiles.convert import pmtiles_to_mbtiles

from basemake.pixels.archive import open_archive
from basemake.system.files import writing


def export_mbtiles(archive: Path, output: Path) -> None:
    """Write every web tile of `archive`, and its metadata, to the MBTiles database `output`.

    Raises TileError if the archive is incomplete or the disk is full.
    """
    with open_archive(archive), writing(output) as part:
        pmtiles_to_mbtiles(str(archive), str(part))


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        export_mbtiles(Path(snakemake.input.archive), Path(snakemake.output.archive))
