"""The preview page in a real browser, served by `make serve`: what a person sees."""

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chromium import SIZE, Tab, eventually
from PIL import Image, ImageColor
from pmtiles.tile import Compression, TileType, tileid_to_zxy
from pmtiles.writer import write

from build_preview import GROUND, Told, build_preview

SERVE = Path(__file__).parents[2] / "scripts" / "commands" / "serve.py"
MAX_ZOOM = 4
MISSING = (4, 6, 7)
GROUND_RGB = ImageColor.getrgb(GROUND)
HOLE, DOT = ImageColor.getrgb("#b8a78c"), ImageColor.getrgb("#7d6a4b")  # those of map.js

HOSTILE = '</script><script>console.error(1)</script><img src="//example.org/x"> & <!-- {{ id }}'


def square(reach: float, lon: float = 0, lat: float = 0) -> dict[str, Any]:
    """A polygon that reaches so many degrees from a point."""
    return box(lon - reach, lat - reach, lon + reach, lat + reach)


def box(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


ITEMS = [{"id": HOSTILE, "updated": "2025-10-16T00:00:00Z"}, {"id": "second", "updated": None}]
TILE = {
    "type": "Feature",
    "properties": {"id": "31NAA_0_0"},
    "geometry": square(3, -6, 5),
}
KNOWN = {"31NAA_0_0": {"holes": [5, 100], "items": [HOSTILE, "second"], "shares": [0.75, 0.25]}}


def colour(z: int, x: int, y: int) -> tuple[int, int, int]:
    """The colour of a web tile, one for each up to zoom 4."""
    return 60 * z, 16 * x, 16 * y


def write_archive(path: Path, tile_size: int, paint: Any = colour, **extent: float) -> None:
    """An archive of the world's web tiles but one, with bounds and centre in degrees."""
    header: dict[str, Any] = {f"{name}_e7": round(1e7 * value) for name, value in extent.items()}
    codecs = {"tile_type": TileType.WEBP, "tile_compression": Compression.NONE}
    with write(path) as writer:
        for number in range((4 ** (MAX_ZOOM + 1) - 1) // 3):
            zxy = tileid_to_zxy(number)
            tile = io.BytesIO()
            Image.new("RGB", (tile_size, tile_size), paint(*zxy)).save(
                tile, "webp", lossless=True, method=0
            )
            if zxy != MISSING:
                writer.write_tile(number, tile.getvalue())
        metadata = {"attribution": HOSTILE, "tile_size": tile_size, "format": "webp"}
        metadata |= {"description": "A world, 2025Q3", "recipe": path.stem}
        writer.finalize(header | codecs | {"center_zoom": MAX_ZOOM}, metadata)


def write_results(
    folder: Path,
    tile_size: int = 256,
    reach: float = 90,
    tile: dict[str, Any] = TILE,
    **told: Any,
) -> Path:
    """A results folder with an archive and its page; `reach` is that of its bounds, in degrees."""
    extent = {"min_lon": -reach, "min_lat": -60, "max_lon": reach, "max_lat": 60}
    archive, page = folder / "pyramid" / "world.pmtiles", folder / "preview" / "world.html"
    archive.parent.mkdir()
    page.parent.mkdir()
    write_archive(archive, tile_size, **extent, center_lon=0, center_lat=0)
    tiles = {"type": "FeatureCollection", "features": [tile]}
    stated = {"title": HOSTILE, "quarter": "2025Q3", "source": HOSTILE, "recipe": "natural"}
    stated |= {"stac": "https://example.org/items/", "files": "../tiles/"}
    stated |= {"outline": square(12), "clip": False, **told}
    items = {"31NAA_0_0": ITEMS}
    given = Told(footprints=tiles, items=items, **stated)
    build_preview(archive, page, page.with_suffix(".webp"), given, KNOWN)
    return page


@contextmanager
def served(page: Path, *options: str) -> Iterator[str]:
    """The address that `make serve` prints for a page."""
    command = [sys.executable, str(SERVE), str(page.parents[1]), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def text(tab: Tab, selector: str) -> str:
    """The text that an element shows; empty if it is not seen."""
    found = f"document.querySelector({selector!r})"
    return tab.evaluate(f"{found}?.checkVisibility() ? {found}.innerText : ''") or ""


def without_marks(tab: Tab) -> None:
    """Switch off all that is drawn beside the imagery, once the map is there."""
    boxes = "[...document.querySelectorAll('#card input')]"
    eventually(lambda: tab.evaluate(f"{boxes}.length") >= 4, True)
    tab.evaluate(f"{boxes}.filter(box => box.checked).forEach(box => box.click())")


def press(tab: Tab, key: str) -> None:
    code = {"Enter": 13, "Escape": 27, "Home": 36, "End": 35, "ArrowLeft": 37, "Tab": 9}[key]
    what = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    enter = {"text": "\r"} if key == "Enter" else {}
    tab.call("Input.dispatchKeyEvent", type="keyDown", **what, **enter)
    tab.call("Input.dispatchKeyEvent", type="keyUp", **what)


def click(tab: Tab, x: int, y: int) -> None:
    """Click at a point given in px from the middle of the screen."""
    where = {"x": SIZE[0] // 2 + x, "y": SIZE[1] // 2 + y, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        tab.call("Input.dispatchMouseEvent", type=kind, **where)


def only_not_found(tab: Tab) -> None:
    """Take what the browser itself says of an answer 404, which a page cannot keep it from."""
    (said,) = tab.complaints()
    assert "404" in said["text"]
    tab.events.clear()


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


def test_the_page_opens_on_the_whole_map_and_says_nothing(tab: Tab, tmp_path: Path) -> None:
    with served(write_results(tmp_path, outline=box(-90, -60, 90, 60), clip=True)) as address:
        tab.open(address)
        without_marks(tab)
        expected = [GROUND_RGB, colour(2, 1, 1), colour(2, 2, 2), GROUND_RGB]
        eventually(lambda: tab.colours((-310, -60), (-60, -60), (60, 60), (310, 60)), expected)
        assert tab.happened("Runtime.consoleAPICalled") == []


def test_the_open_card_of_a_wide_screen_covers_nothing_of_the_map(tab: Tab, tmp_path: Path) -> None:
    with served(write_results(tmp_path, outline=box(-90, -60, 90, 60), clip=True)) as address:
        tab.resize(1000, SIZE[1])
        tab.open(address)
        without_marks(tab)
        # Between card and map, in its western half, and in its eastern one.
        points = [(300, 180), (600, 180), (800, 180)]
        expected = [GROUND_RGB, colour(2, 1, 1), colour(2, 2, 1)]
        eventually(lambda: [tab.screen().getpixel(point) for point in points], expected)
        tab.resize(*SIZE)


def test_a_map_across_the_antimeridian_opens_whole_and_without_a_line(
    tab: Tab, tmp_path: Path
) -> None:
    sides = [square(4, 176, -10)["coordinates"], square(4, -176, -10)["coordinates"]]
    fiji = {"type": "MultiPolygon", "coordinates": sides}
    tile = {**TILE, "geometry": fiji}
    page = write_results(tmp_path, reach=180, tile=tile, outline=fiji, clip=True)
    with served(page) as address:
        tab.open(address)
        west, east = colour(4, 15, 8), colour(4, 0, 8)
        eventually(lambda: tab.colours((-60, 0), (60, 0)), [west, east])
        without_marks(tab)
        tab.evaluate("document.querySelector('#show-region').click()")
        eventually(lambda: tab.evaluate("document.querySelector('#show-region').checked"), True)
        row = [(x, 0) for x in range(-60, 61)]
        eventually(lambda: set(tab.colours(*row)), {west, east})


def test_no_imagery_holes_and_ground_look_different(tab: Tab, tmp_path: Path) -> None:
    """In a tile where a web tile is missing, beside the archive, and there without the marks."""
    tile = {**TILE, "geometry": square(8, -33.75, 11)}
    area = [(dx, dy) for dx in range(-10, 11, 2) for dy in range(-10, 11, 2)]
    with served(write_results(tmp_path, tile=tile)) as address:
        tab.open(f"{address}#3/11/-33.75")
        eventually(lambda: {HOLE, DOT} <= set(tab.colours(*area)), True)
        tab.open(f"{address}?#3/11/135")
        eventually(lambda: len(found := set(tab.colours(*area))) > 1 and GROUND_RGB in found, True)
        assert not {HOLE, DOT} & set(tab.colours(*area))
        without_marks(tab)
        eventually(lambda: set(tab.colours(*area)), {GROUND_RGB})


def test_a_click_or_enter_tells_of_a_tile_and_escape_closes(tab: Tab, tmp_path: Path) -> None:
    with served(write_results(tmp_path)) as address:
        tab.open(f"{address}#3/5/-6")
        eventually(lambda: tab.evaluate("document.querySelector('#show-tiles')?.checked"), False)

        def clicked(x: int, y: int) -> str:
            click(tab, x, y)
            return text(tab, "#popup h2")

        eventually(lambda: clicked(10, 10), "31NAA_0_0")  # once footprints are drawn
        told = text(tab, "#popup")
        assert f"{HOSTILE}\n75 %, updated 2025-10-16\nsecond\n25 %" in told
        assert "2025Q3 · no data 5 % · filled 25 %" in told
        links = tab.evaluate("[...document.querySelectorAll('#popup a')].map(a => a.href)")
        assert links[1:] == [
            "https://example.org/items/second",
            address.replace("preview/world.html", "tiles/31NAA_0_0.tif"),
        ]
        click(tab, 300, 200)  # where no tile is
        eventually(lambda: text(tab, "#popup"), "")
        tab.evaluate("document.querySelector('.maplibregl-canvas').focus()")
        press(tab, "Enter")
        eventually(lambda: text(tab, "#popup h2"), "31NAA_0_0")
        assert tab.evaluate("document.activeElement.id") == "popup"
        press(tab, "Escape")
        eventually(lambda: text(tab, "#popup"), "")
        assert tab.evaluate("document.activeElement.className") == "maplibregl-canvas"
        assert tab.evaluate("location.hash") == "#3/5/-6"


def test_the_card_tells_of_the_map_and_all_texts_are_plain(tab: Tab, tmp_path: Path) -> None:
    with served(write_results(tmp_path)) as address:
        tab.open(address)
        credit = "document.querySelector('.maplibregl-ctrl-attrib-inner')"
        eventually(lambda: tab.evaluate(f"{credit}?.innerText"), HOSTILE)
        assert tab.evaluate(f"{credit}.checkVisibility()")
        assert tab.evaluate("document.title") == f"{HOSTILE}, 2025Q3"
        assert text(tab, "#card h1") == HOSTILE
        assert text(tab, "#card dl") == ""  # the card of a small screen begins closed
        tab.evaluate("document.querySelector('#card summary').click()")
        told = text(tab, "#card dl").split("\n")
        facts = dict(zip(told[::2], told[1::2], strict=True))
        assert facts == {
            "Source": HOSTILE,
            "Recipe": "natural",
            "Covered": "6.3 % of the region",
            "No data": "5 % of its pixels",
            "Filled": "25 %",
            "Updated": "2025-10-16",
            "Zooms": "0 to 4",
        }
        assert tab.evaluate("document.querySelector('#card a').href").endswith("/index.html")


def test_on_a_phone_everything_fits(tab: Tab, tmp_path: Path) -> None:
    """At 390 x 844; also the names of two maps, a popup, and a long credit."""
    page = write_results(tmp_path)
    with served(page) as address:
        tab.resize(390, 844)
        tab.open(f"{address}?compare=../pyramid/world.pmtiles#3/5/-6")
        eventually(lambda: text(tab, "#right"), "A world, 2025Q3, world")
        tab.evaluate("document.querySelector('.maplibregl-canvas').focus()")
        press(tab, "Enter")
        eventually(lambda: text(tab, "#popup h2"), "31NAA_0_0")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        beyond = """[...document.querySelectorAll('#card, #popup, .name, .maplibregl-ctrl')]
            .map(one => one.getBoundingClientRect())
            .filter(box => box.left < 0 || box.right > 390 || box.top < 0 || box.bottom > 844)"""
        assert tab.evaluate(f"{beyond}.length") == 0
        assert tab.evaluate(
            "document.querySelector('.maplibregl-ctrl-attrib-inner').checkVisibility()"
        )
        edge = "document.querySelector('.maplibregl-ctrl-{}').getBoundingClientRect().{}"
        assert tab.evaluate(f"{edge.format('scale', 'bottom')} <= {edge.format('attrib', 'top')}")
        tab.resize(*SIZE)


# -- Two maps --------------------------------------------------------------------------------------


def test_two_maps_are_compared_by_mouse_and_by_keyboard(tab: Tab, tmp_path: Path) -> None:
    page = write_results(tmp_path)
    extent = {"min_lon": -90, "min_lat": -60, "max_lon": 90, "max_lat": 60}
    other = tmp_path / "pyramid/natural.pmtiles"
    write_archive(other, 256, lambda z, x, y: (0, 90, 10 * x), **extent, center_lon=0, center_lat=0)
    with served(page) as address:
        tab.open(f"{address}?compare=../pyramid/natural.pmtiles#3/0/0")
        places = [(-100, -100), (100, -100)]
        mine = [colour(4, 7, 7), colour(4, 8, 7)]
        eventually(lambda: tab.colours(*places), [mine[0], (0, 90, 80)])
        assert text(tab, "#left") == "A world, 2025Q3, world"
        assert text(tab, "#right") == "A world, 2025Q3, natural"
        tab.evaluate("document.querySelector('#divider').focus()")
        press(tab, "Home")
        eventually(lambda: tab.colours(*places), [(0, 90, 70), (0, 90, 80)])
        press(tab, "End")
        eventually(lambda: tab.colours(*places), mine)
        press(tab, "ArrowLeft")
        value = "document.querySelector('#divider').ariaValueNow"
        eventually(lambda: tab.evaluate(value), "98")
        # Dragged from there to a quarter of the screen.
        for kind, x in (("mousePressed", 627), ("mouseMoved", 160), ("mouseReleased", 160)):
            tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=300, button="left", clickCount=1)
        eventually(lambda: tab.evaluate(value), "25")
        # Both move together.
        tab.evaluate("location.hash = '#3/0/22.5'")
        eventually(lambda: tab.colours((-250, -100), (100, -100)), [colour(4, 8, 7), (0, 90, 90)])


@pytest.mark.parametrize(
    ("compared", "said"),
    [
        ("nowhere.pmtiles", "nowhere.pmtiles is not there"),
        ("world.html", "world.html is not a PMTiles archive"),
        ("https://example.org/a.pmtiles", "on the same site as this page"),
        ("blob:http://127.0.0.1/1", "on the same site as this page: blob:http://127.0.0.1/1"),
        ("http://[", "on the same site as this page: http://[ is not"),
        ("a%2525.pmtiles", "a%.pmtiles is not there"),
        ("a%25.pmtiles", "a%.pmtiles is not there"),
        ("../pyramid/", "/pyramid/ is not there"),
    ],
)
def test_a_map_that_cannot_be_compared_is_named(
    tab: Tab, tmp_path: Path, compared: str, said: str
) -> None:
    """And the page's own is shown."""
    with served(write_results(tmp_path)) as address:
        tab.open(f"{address}?compare={compared}#3/0/0")
        eventually(lambda: said in text(tab, "#notes"), True)
        assert text(tab, "#notes").startswith("The map to compare with cannot be shown.")
        eventually(lambda: tab.colours((100, 100)), [colour(4, 8, 8)])
        if "not there" in said:
            only_not_found(tab)


# -- What can be wrong -----------------------------------------------------------------------------


def test_a_missing_archive_is_named_with_what_to_do(tab: Tab, tmp_path: Path) -> None:
    page = write_results(tmp_path)
    (tmp_path / "pyramid/world.pmtiles").unlink()
    with served(page) as address:
        tab.open(address)
        eventually(lambda: "world.pmtiles is not there" in text(tab, "#notes"), True)
        assert "run snakemake" in text(tab, "#notes")
        eventually(lambda: tab.evaluate("!!document.querySelector('#show-region')"), True)
        only_not_found(tab)


def test_a_server_without_ranges_is_named_with_what_to_do(tab: Tab, tmp_path: Path) -> None:
    write_results(tmp_path)
    command = [sys.executable, "-um", "http.server", "0", "--bind", "127.0.0.1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, "--directory", str(tmp_path)], stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split(" port ")[1].split()[0]
        try:
            tab.open(f"http://127.0.0.1:{port}/preview/world.html")
            eventually(lambda: "sends files whole" in text(tab, "#notes"), True)
            assert "make serve" in text(tab, "#notes")
        finally:
            server.terminate()


def test_a_page_opened_as_a_file_says_what_to_run(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_results(tmp_path).as_uri())
    eventually(lambda: "Run make serve" in text(tab, "#notes"), True)


def test_other_services_are_asked_only_if_the_config_names_them(tab: Tab, tmp_path: Path) -> None:
    """That of labels is another server here, which allows pages of other sites (CORS)."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.html").write_text("")
    Image.new("RGBA", (256, 256), (255, 0, 0, 255)).save(elsewhere / "tile.png")
    with served(elsewhere / "preview" / "a.html", "--cors") as other:
        labels = other.replace("a.html", "tile.png?{z}/{x}/{y}")
        (tmp_path / "results").mkdir()
        page = write_results(tmp_path / "results", labels=labels, credit="Names: somebody")
        with served(page) as address:
            tab.open(f"{address}#3/0/0")
            eventually(lambda: tab.colours((100, 100)), [(255, 0, 0)])
            eventually(
                lambda: "Names: somebody" in text(tab, ".maplibregl-ctrl-attrib-inner"), True
            )


def test_labels_that_do_not_come_are_told_once(tab: Tab, tmp_path: Path) -> None:
    """Not once for each web tile; here the other server allows no pages of other sites."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.html").write_text("")
    with served(elsewhere / "preview" / "a.html") as other:
        labels = other.replace("a.html", "{z}/{x}/{y}.png")
        (tmp_path / "results").mkdir()
        with served(write_results(tmp_path / "results", labels=labels)) as address:
            tab.open(f"{address}#3/0/0")
            eventually(lambda: tab.evaluate("1") and len(tab.complaints()) >= 4, True)
            eventually(lambda: text(tab, "#notes").startswith("Labels cannot be shown"), True)
            assert tab.evaluate("document.querySelectorAll('#notes p').length") == 1
    tab.events.clear()
