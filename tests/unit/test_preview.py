"""The preview page, its thumbnail and the index: what they hold, and that text stays text."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image, ImageColor
from pmtiles.tile import Compression, TileType
from pmtiles.writer import write
from shapely.geometry import shape

from basemake.preview.thumbnail import SIZE, write_thumbnail
from basemake.preview.world import world
from build_index import build_index
from build_preview import GROUND, Told, areas, build_preview, figures, policy, with_shares

BREAKOUT = """</script><!--<script>'"&{{ title }}\u2028"""


def degrees_e7(**degrees: float) -> dict[str, int]:
    return {f"{name}_e7": round(value * 1e7) for name, value in degrees.items()}


ALPS = degrees_e7(min_lon=8.2, min_lat=45, max_lon=11.4, max_lat=47, center_lon=9.8, center_lat=46)
FIJI = degrees_e7(
    min_lon=-180, min_lat=-20, max_lon=180, max_lat=-15, center_lon=178.5, center_lat=-17.5
)


def write_archive(
    path: Path,
    extent: dict[str, int] = ALPS,
    tile_size: int = 256,
    attribution: str = "EU",
    zooms: tuple[int, ...] = (0, 1, 5, 21, 85),
) -> Path:
    """An archive with one green web tile of each zoom, or of these ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tile = path.with_suffix(".webp")
    Image.new("RGB", (tile_size, tile_size), "green").save(tile, lossless=True)
    codecs = {"tile_type": TileType.WEBP, "tile_compression": Compression.NONE}
    with write(path) as writer:
        for number in zooms:
            writer.write_tile(number, tile.read_bytes())
        header = {**codecs, **extent, "center_zoom": 4}
        metadata = {"attribution": attribution, "tile_size": tile_size, "format": "webp"}
        writer.finalize(header, metadata)
    return path


def square(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    return json.loads(json.dumps(shapely.box(west, south, east, north).__geo_interface__))


def tile(name: str, area: dict[str, Any], *items: str, updated: str | None = None) -> dict:
    listed = [{"id": item, "updated": updated} for item in items]
    return {"type": "Feature", "properties": {"id": name, "items": listed}, "geometry": area}


def footprints(*tiles: dict) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": [*tiles]}


def of(tiles: dict[str, Any]) -> dict[str, Any]:
    """Footprints and items as a page gets them, from footprints with items."""
    stated = [feature["properties"] for feature in tiles["features"]]
    return {"footprints": tiles, "items": {one["id"]: one["items"] for one in stated}}


ONE = footprints(tile("32TMR_0_0", square(8, 45, 9, 46), "an item"))
TOLD = Told(
    title="demo",
    quarter="2025Q3",
    source="A world",
    recipe="natural",
    **of(ONE),
    outline=square(8, 45, 9, 46),
    clip=True,
)


def build(archive: Path, told: Told = TOLD, known: dict | None = None) -> str:
    """The page of an archive, as if in results/preview beside results/pyramid."""
    output = archive.parents[1] / "preview" / "demo.html"
    output.parent.mkdir(exist_ok=True)
    build_preview(archive, output, output.with_suffix(".webp"), told, known or {})
    return output.read_text(encoding="utf-8")


def held(page: str, name: str = "data") -> dict:
    """What the page hands to its script, by the name of an element."""
    (found,) = re.findall(rf'<script id="{name}" type="application/json">(.*?)</script>', page)
    return json.loads(found)


# -- The page --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "shown"), [(None, GROUND), ("#12304a", "#12304a")])
def test_the_ground_is_the_background_of_the_map(tmp_path: Path, given, shown) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles")
    page = build(archive, replace(TOLD, background=given))
    assert held(page)["ground"] == shown
    assert f":root {{ --ground: {shown}; }}" in page
    assert held(page)["holesShow"] == (given is None)  # a background is drawn in holes, too


def test_archive_name_is_quoted_in_its_address(tmp_path: Path) -> None:
    page = build(write_archive(tmp_path / "pyramid" / "50% {z} #1?.pmtiles"))
    assert held(page, "links")["archive"] == "../pyramid/50%25%20%7Bz%7D%20%231%3F.pmtiles"


def test_the_page_links_to_what_is_there(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles")
    api = "https://stac.example.org/collections/a/items/"
    links = held(build(archive, replace(TOLD, stac=api, files="../tiles/")), "links")
    assert (links["index"], links["items"], links["tiles"]) == ("index.html", api, "../tiles/")
    links = held(build(archive), "links")
    assert (links["items"], links["tiles"]) == (None, None)


@pytest.mark.parametrize(("clip", "bounds"), [(True, [8, 45, 10, 46]), (False, [8, 45, 9, 46])])
def test_map_opens_on_the_region_or_on_all_that_its_tiles_show(
    tmp_path: Path, clip: bool, bounds: list[float]
) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles")
    told = replace(TOLD, outline=square(8, 45, 10, 46), clip=clip)
    assert held(build(archive, told))["view"]["bounds"] == bounds


@pytest.mark.parametrize("clip", [True, False])
def test_a_map_across_the_antimeridian_is_one_that_goes_on_beyond_180(
    tmp_path: Path, clip: bool
) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles", FIJI)
    fiji = shapely.box(177, -20, 180, -16).union(shapely.box(-180, -20, -178, -16))
    area = json.loads(json.dumps(fiji.__geo_interface__))
    told = replace(TOLD, outline=area, clip=clip, **of(footprints(tile("60KXF", area, "an item"))))
    data = held(build(archive, told))
    assert data["view"]["bounds"] == pytest.approx([177, -20, 182, -16])
    for drawn in (data["region"], data["coverage"], data["tiles"]["features"][0]["geometry"]):
        assert shape(drawn).equals(shapely.box(177, -20, 182, -16))


def test_text_from_outside_cannot_leave_its_place(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles", attribution=BREAKOUT)
    plain = build(write_archive(tmp_path / "plain" / "demo.pmtiles"))
    hostile = footprints(tile(BREAKOUT, square(8, 45, 9, 46), BREAKOUT, updated=BREAKOUT))
    names = dict.fromkeys(("title", "source", "recipe", "stac", "credit"), BREAKOUT)
    page = build(archive, replace(TOLD, **of(hostile), **names))
    for mark in ("<script", "</script", "<!--", "\u2028"):
        assert page.count(mark) == plain.count(mark) + (mark == "\u2028")  # in the title, harmless
    shown = "&lt;/script&gt;&lt;!--&lt;script&gt;&#39;&#34;&amp;{{ title }}\u2028, 2025Q3"
    assert f"<title>{shown}</title>" in page
    data = held(page)
    assert (data["title"], data["attribution"], data["credit"]) == (BREAKOUT,) * 3
    assert data["tiles"]["features"][0]["properties"]["id"] == BREAKOUT


def test_same_arguments_give_same_bytes_and_no_other_file(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles")
    thumbnail = tmp_path / "preview" / "demo.webp"
    first = build(archive), thumbnail.read_bytes()
    assert (build(archive), thumbnail.read_bytes()) == first
    assert {path.name for path in (tmp_path / "preview").iterdir()} == {"demo.html", "demo.webp"}


def test_a_page_may_ask_only_its_own_site_and_the_hosts_that_are_named() -> None:
    own = "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; worker-src blob:;"
    assert policy(None, None).startswith(own)
    more = policy("https://a.org/{z}/{x}/{y}.png", "https://b.org:8080/{z}/{x}/{y}?key=1")
    assert "connect-src 'self' https://a.org https://b.org:8080;" in more


# -- What it tells ---------------------------------------------------------------------------------

TWO = footprints(
    tile("a", square(0, 0, 1, 1), "a3", "a2", updated="2025-10-02T00:00:00Z"),
    tile("b", square(1, 0, 2, 1), "b3", "b2", updated="2025-11-05T00:00:00Z"),
)
KNOWN = {
    "a": {"holes": [10, 100], "items": ["a3", "a2"], "shares": [0.7, 0.2]},
    "b": {"holes": [0, 300], "items": ["b3", "b2"], "shares": [1.0, 0.0]},
}


def test_shares_of_tiles_and_of_the_whole_map() -> None:
    tiles = with_shares(*of(TWO).values(), KNOWN)
    first, second = (feature["properties"] for feature in tiles["features"])
    assert [item["share"] for item in first["items"]] == [0.7, 0.2]
    assert (first["holes"], first["filled"], first["hidden"]) == pytest.approx((0.1, 0.2, 0.1))
    assert (second["holes"], second["filled"], second["hidden"]) == (0, 0, 0)
    found = figures(tiles, KNOWN)
    # Of 400 pixels 10 are empty; of the 90 and 300 that show something, 18 are filled.
    assert found["holes"] == pytest.approx(10 / 400)
    assert found["filled"] == pytest.approx(18 / 390)
    assert found["hidden"] == pytest.approx(9 / 390)
    assert found["updated"] == ["2025-10-02T00:00:00Z", "2025-11-05T00:00:00Z"]


@pytest.mark.parametrize("known", [{}, {"a": {"holes": [0, 0], "items": ["x"], "shares": [1.0]}}])
def test_what_is_not_known_is_not_told(known: dict) -> None:
    """Such as shares of other items than the manifest has now."""
    tiles = with_shares(*of(TWO).values(), known)
    assert not any("filled" in feature["properties"] for feature in tiles["features"])
    found = figures(tiles, known)
    assert (found["holes"], found["filled"], found["hidden"]) == (None, None, None)


def test_an_item_that_does_not_show_does_not_count_as_an_update() -> None:
    known = {"a": KNOWN["a"], "b": {**KNOWN["b"], "shares": [0.0, 0.0]}}
    assert (
        figures(with_shares(*of(TWO).values(), known), known)["updated"]
        == ["2025-10-02T00:00:00Z"] * 2
    )


@pytest.mark.parametrize(
    ("holes", "shares"), [([0, 100], [0.832579, 0.16742]), ([100, 100], [0.0, 0.0])]
)
def test_what_shares_miss_by_rounding_and_what_shows_nothing_is_no_cloud(
    holes: list[int], shares: list[float]
) -> None:
    known = {"a": {"holes": holes, "items": ["a3", "a2"], "shares": shares}}
    tiles = with_shares(*of(TWO).values(), known)
    assert tiles["features"][0]["properties"]["hidden"] == 0
    assert not figures(tiles, known)["hidden"]


@pytest.mark.parametrize("clip", [True, False])
def test_where_there_is_imagery_and_where_there_is_none(clip: bool) -> None:
    """Footprints leave a gap of 1 km between them, which is none."""
    tiles = footprints(tile("a", square(0, 0, 0.995, 1)), tile("b", square(1, 0, 2, 1)))
    told = replace(TOLD, **of(tiles), outline=square(-1, 0, 1.5, 1), clip=clip)
    found = areas(told)
    coverage, outside = shape(found["coverage"]), shape(found["outside"])
    expected = shapely.box(0, 0, 1.5 if clip else 2, 1)
    assert coverage.symmetric_difference(expected).area < 1e-4
    assert coverage.intersection(outside).area == pytest.approx(0, abs=1e-6)
    assert coverage.union(outside).area == pytest.approx(360 * 2 * 85.0511287798066)
    assert found["covered"] == pytest.approx(0.6, abs=0.003)


def test_the_world_has_land_coasts_and_borders_in_place() -> None:
    shapes = {name: shape(geometry) for name, geometry in world().items()}
    assert all(one.is_valid for one in shapes.values())
    land = {(10, 50): 1, (-100, 40): 1, (25, -28): 1, (0, -88): 1, (-40, 30): 0, (80, -20): 0}
    assert {place: shapely.Point(place).within(shapes["land"]) for place in land} == land
    # A degree is 111 km; the data are true to about a tenth of one.
    assert shapes["coast"].distance(shapely.Point(-5.72, 50.07)) < 0.3  # Land's End
    assert shapes["borders"].distance(shapely.Point(1.73, 42.5)) < 0.3  # France and Spain
    assert shapes["borders"].distance(shapely.Point(-5.72, 50.07)) > 3
    # Land is cut at the antimeridian and ends at the pole, where no coast is.
    cut = shapely.LineString([(180, -80), (180, 80)]).union(
        shapely.LineString([(-180, -80), (-180, 80)])
    )
    assert shapes["coast"].intersection(cut).length == 0
    assert shapes["coast"].bounds[1] > -86


# -- The thumbnail ---------------------------------------------------------------------------------

GREEN, BLUE = ImageColor.getrgb("green"), ImageColor.getrgb("#12304a")


def thumbnail(archive: Path, *bounds: float) -> np.ndarray:
    write_thumbnail(archive, archive.with_suffix(".thumbnail"), "#12304a", bounds)
    return np.asarray(Image.open(archive.with_suffix(".thumbnail"))).astype(int)


def looks(pixel: np.ndarray, colour: tuple[int, ...]) -> bool:
    return bool(np.abs(pixel - colour).max() <= 6)


@pytest.mark.parametrize("tile_size", [256, 512])
def test_a_thumbnail_shows_the_whole_map_on_its_ground(tmp_path: Path, tile_size: int) -> None:
    """Web tile 1/0/0 alone, which is the north-west of the world."""
    archive = write_archive(tmp_path / "w.pmtiles", tile_size=tile_size, zooms=(1,))
    image = thumbnail(archive, -180, -85, 179, 85)
    assert image.shape == (SIZE[1], SIZE[0], 3)
    assert looks(image[SIZE[1] // 4, SIZE[0] // 2 - 60], GREEN)
    assert looks(image[SIZE[1] // 4, SIZE[0] // 2 + 60], BLUE)
    assert looks(image[3 * SIZE[1] // 4, SIZE[0] // 2 - 60], BLUE)


def test_a_thumbnail_goes_on_across_the_antimeridian(tmp_path: Path) -> None:
    """Of zoom 1 the tiles of the east, 1/1/0 and 1/1/1, are not there; those of the west are."""
    archive = write_archive(tmp_path / "fiji.pmtiles", zooms=(1, 2))
    image = thumbnail(archive, 177, -20, 183, -16)
    middle = SIZE[1] // 2
    assert looks(image[middle, SIZE[0] // 2 - 100], BLUE)  # 180 degrees and west of it
    assert looks(image[middle, SIZE[0] // 2 + 100], GREEN)


def test_a_thumbnail_of_a_map_without_low_zooms_shows_its_middle(tmp_path: Path) -> None:
    """At zoom 6 the world has 64 x 64 web tiles; few of them are read."""
    archive = write_archive(tmp_path / "w.pmtiles", zooms=tuple(range(1365, 1365 + 4**6)))
    assert looks(thumbnail(archive, -179, -80, 179, 80)[SIZE[1] // 2, SIZE[0] // 2], GREEN)


# -- The index -------------------------------------------------------------------------------------


def test_the_index_lists_maps_and_text_stays_text(tmp_path: Path) -> None:
    told = {
        "title": "<b>alps</b>",
        "quarter": "2025Q3",
        "source": "A world & more",
        "recipe": "natural",
        "attribution": "<script>",
        "zooms": [0, 13],
        "bytes": 1_234_567_890,
    }
    pages = {Path("a 1.html"): told, Path("b.html"): {**told, "title": "b", "bytes": 14_300}}
    build_index(pages, tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert re.findall(r'<a href="(.*?)">', text) == ["a%201.html", "b.html"]
    assert re.findall(r'<img src="(.*?)"', text) == ["a%201.webp", "b.webp"]
    places = "Zooms 0 to 13, 1.2 GB", "Zooms 0 to 13, 14.3 kB"
    for words in ("&lt;b&gt;alps", "A world &amp; more, natural", *places):
        assert words in text
    assert "<script" not in text
