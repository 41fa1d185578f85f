"""The preview page in a real browser, served by `make serve`: what a person sees."""

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chromium import Tab, eventually
from PIL import Image, ImageColor
from pmtiles.tile import Compression, TileType, tileid_to_zxy
from pmtiles.writer import write

from build_preview import GROUND, build_preview

SERVE = Path(__file__).parents[2] / "scripts" / "commands" / "serve.py"
MAX_ZOOM = 4
MISSING = (4, 6, 7)
GROUND_RGB = ImageColor.getrgb(GROUND)

HOSTILE = '</script><script>console.error(1)</script><img src="//example.org/x"> & <!-- {{ id }}'


def square(reach: float, lon: float = 0, lat: float = 0) -> dict[str, Any]:
    """A polygon that reaches so many degrees from a point."""
    west, east, south, north = lon - reach, lon + reach, lat - reach, lat + reach
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


NAMES = {"id": "31NAA_0_0", "item": HOSTILE}
TILE = {"type": "Feature", "properties": NAMES, "geometry": square(3, -6, 5)}


def colour(z: int, x: int, y: int) -> tuple[int, int, int]:
    """The colour of a web tile, one for each up to zoom 4."""
    return 60 * z, 16 * x, 16 * y


def write_archive(path: Path, tile_size: int, **extent: float) -> None:
    """An archive of the world's web tiles but one, with bounds and centre in degrees."""
    header: dict[str, Any] = {f"{name}_e7": round(1e7 * value) for name, value in extent.items()}
    codecs = {"tile_type": TileType.WEBP, "tile_compression": Compression.NONE}
    with write(path) as writer:
        for number in range((4 ** (MAX_ZOOM + 1) - 1) // 3):
            zxy = tileid_to_zxy(number)
            tile = io.BytesIO()
            Image.new("RGB", (tile_size, tile_size), colour(*zxy)).save(
                tile, "webp", lossless=True, method=0
            )
            if zxy != MISSING:
                writer.write_tile(number, tile.getvalue())
        metadata = {"attribution": HOSTILE, "tile_size": tile_size}
        writer.finalize(header | codecs | {"center_zoom": MAX_ZOOM}, metadata)


def write_results(
    folder: Path, tile_size: int = 256, reach: float = 90, centre: tuple[float, float] = (0, 0)
) -> Path:
    """A results folder with an archive and its page; `reach` is that of its bounds, in degrees."""
    extent = {"min_lon": -reach, "min_lat": -60, "max_lon": reach, "max_lat": 60}
    archive, page = folder / "pyramid" / "world.pmtiles", folder / "preview" / "world.html"
    archive.parent.mkdir()
    page.parent.mkdir()
    write_archive(archive, tile_size, **extent, center_lon=centre[0], center_lat=centre[1])
    tiles = {"type": "FeatureCollection", "features": [TILE]}
    build_preview(archive, tiles, square(12), page, title=HOSTILE)
    return page


@contextmanager
def served(page: Path) -> Iterator[str]:
    """The address that `make serve` prints for a page."""
    command = [sys.executable, str(SERVE), str(page.parents[1]), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("tile_size", "zoom", "z"),
    [(256, 3, 4), (512, 3, 3), (256, 6, 4)],
    ids=["256 px", "512 px", "overzoom"],
)
def test_web_tiles_are_where_they_belong(
    tab: Tab, tmp_path: Path, tile_size: int, zoom: int, z: int
) -> None:
    """Four web tiles of each zoom `z` meet at 0 N 0 E; the map counts zooms in tiles of 512 px."""
    half = 2**z // 2
    with served(write_results(tmp_path, tile_size)) as address:
        tab.open(f"{address}#{zoom}/0/0")
        quadrants = [(-120, -100), (120, -100), (-120, 100), (120, 100)]
        expected = [colour(z, x, y) for y in (half - 1, half) for x in (half - 1, half)]
        eventually(lambda: tab.colours(*quadrants), expected)


def test_the_page_opens_on_the_whole_archive(tab: Tab, tmp_path: Path) -> None:
    with served(write_results(tmp_path)) as address:
        tab.open(address)
        expected = [GROUND_RGB, colour(2, 1, 1), colour(2, 2, 2), GROUND_RGB]
        eventually(lambda: tab.colours((-310, -60), (-60, -60), (60, 60), (310, 60)), expected)


def test_an_archive_across_the_antimeridian_opens_whole(tab: Tab, tmp_path: Path) -> None:
    with served(write_results(tmp_path, reach=180, centre=(178.5, -17.5))) as address:
        tab.open(address)
        expected = [colour(4, 15, 8), colour(4, 0, 8)]
        eventually(lambda: tab.colours((-60, 0), (60, 0)), expected)


def test_tiles_are_outlined_and_named_when_asked_for(tab: Tab, tmp_path: Path) -> None:
    """A web tile in view is missing: that must not keep the controls away."""
    with served(write_results(tmp_path)) as address:
        tab.open(f"{address}#3/0/0")
        across_its_west_side = [(x, -57) for x in range(-106, -98)]
        imagery = {colour(4, 7, 7)}
        eventually(lambda: set(tab.colours(*across_its_west_side)), imagery)
        eventually(lambda: tab.evaluate("document.getElementById('tiles')?.className"), "")
        tab.evaluate("document.getElementById('tiles').click()")
        eventually(lambda: set(tab.colours(*across_its_west_side)) > imagery, True)
        tab.point_at(-68, -57)
        name = "document.querySelector('.maplibregl-popup-content')?.textContent"
        eventually(lambda: tab.evaluate(name), "31NAA_0_0" + HOSTILE)
        assert tab.evaluate("location.hash") == "#3/0/0"


def test_attribution_and_title_are_shown_as_plain_text(tab: Tab, tmp_path: Path) -> None:
    with served(write_results(tmp_path)) as address:
        tab.open(address)
        credit = "document.querySelector('.maplibregl-ctrl-attrib-inner')"
        eventually(lambda: tab.evaluate(f"{credit}?.innerText"), HOSTILE)
        assert tab.evaluate(f"{credit}.checkVisibility()")
        assert tab.evaluate("document.title") == HOSTILE


def test_a_page_opened_as_a_file_says_what_to_run(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_results(tmp_path).as_uri())
    eventually(lambda: "run make serve" in (tab.evaluate("document.body.innerText") or ""), True)
