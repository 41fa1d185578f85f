"""Write a pyramid as a folder of z/x/y files."""

import json
import os
from pathlib import Path
from typing import Any

from pmtiles.reader import all_tiles

from basemake.pixels.archive import open_archive, read_about
from basemake.pixels.tilejson import SUFFIXES, tilejson
from basemake.system.files import writing


def export_folder(archive: Path, output: Path, image_format: str) -> None:
    """Write every web tile of `archive` to output/{z}/{x}/{y}.{suffix}, and metadata.json.

    That is the archive's metadata and TileJSON, whose address of the web tiles is relative to it.
    Raises TileError if the archive is incomplete or the disk is full.
    """
    suffix = SUFFIXES[image_format]
    header, metadata = read_about(archive)
    shown = tilejson(header, metadata, f"{{z}}/{{x}}/{{y}}.{suffix}")
    with open_archive(archive) as (get_bytes, _), writing(output) as part:
        part.mkdir()
        (part / "metadata.json").write_text(json.dumps(metadata | shown))
        for (z, x, y), data in all_tiles(get_bytes):
            path = part / f"{z}/{x}/{y}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        os.sync()  # once for all: syncing a hundred thousand files one by one takes many minutes


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import recorded
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        export_folder(
            Path(snakemake.input.archive),
            Path(snakemake.output.folder),
            **snakemake.params.settings,
        )
