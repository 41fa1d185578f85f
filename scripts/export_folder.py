"""Write a pyramid as a folder of z/x/y files."""

import json
import shutil
from pathlib import Path
from typing import Any

from pmtiles.reader import MmapSource, Reader, all_tiles

SUFFIXES = {"webp": "webp", "png": "png", "jpeg": "jpg"}


def export_folder(archive: Path, output: Path, image_format: str) -> None:
    """Write every web tile of `archive` to output/{z}/{x}/{y}, and its metadata.json."""
    part = output.with_name(output.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    with archive.open("rb") as file:
        source = MmapSource(file)
        (part / "metadata.json").write_text(json.dumps(Reader(source).metadata()))
        for (z, x, y), data in all_tiles(source):
            path = part / f"{z}/{x}/{y}.{SUFFIXES[image_format]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    part.replace(output)


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.logs import job_log
    from basemake.records import recorded

    with job_log(snakemake.log[0]), recorded(snakemake):
        export_folder(
            Path(snakemake.input.archive),
            Path(snakemake.output.folder),
            **snakemake.params.settings,
        )
