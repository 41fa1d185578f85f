"""Index: a page that lists the maps of a results folder with their thumbnails."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment

from basemake.preview.thumbnail import SIZE
from basemake.system.files import writing
from basemake.system.screen import in_megabytes

TEMPLATE = Path(__file__).parent / "basemake" / "preview" / "page" / "index.html"


def build_index(pages: Mapping[Path, dict[str, Any]], output: Path) -> None:
    """Write the page that lists `pages`, each with what `build_preview` returned of it.

    A page's thumbnail lies beside it. Equal arguments give equal bytes.
    """
    maps = [
        {
            **told,
            "page": quote(page.name),
            "thumbnail": quote(page.with_suffix(".webp").name),
            "size": in_megabytes(told["bytes"]),
        }
        for page, told in pages.items()
    ]
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    with writing(output) as part:
        text = template.render(maps=maps, width=SIZE[0] // 2, height=SIZE[1] // 2)
        part.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import read_record, recorded
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        pages = [Path(page) for page in snakemake.input.pages]
        records = {page: read_record(page) for page in pages}
        build_index(
            {page: record.known for page, record in records.items() if record},
            Path(snakemake.output.index),
        )
