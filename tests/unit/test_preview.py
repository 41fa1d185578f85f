"""The preview page: what it holds, and that text from outside stays text."""

import json
from pathlib import Path

import pytest
from PIL import Image
from pmtiles.tile import Compression, TileType
from pmtiles.writer import write

from build_preview import build_preview

BREAKOUT = """</script><!--<script>'"&{{ title }}\u2028"""


def degrees_e7(**degrees: float) -> dict[str, int]:
    return {f"{name}_e7": round(value * 1e7) for name, value in degrees.items()}


ALPS = degrees_e7(min_lon=8.2, min_lat=45, max_lon=11.4, max_lat=47, center_lon=9.8, center_lat=46)
FIJI = degrees_e7(
    min_lon=-180, min_lat=-20, max_lon=180, max_lat=-15, center_lon=178.5, center_lat=-17.5
)


def write_archive(
    path: Path, extent: dict[str, int] = ALPS, tile_size: int = 256, attribution: str = "EU"
) -> Path:
    """An archive with one web tile at zooms 0 to 4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tile = path.with_suffix(".webp")
    Image.new("RGB", (tile_size, tile_size), "green").save(tile)
    codecs = {"tile_type": TileType.WEBP, "tile_compression": Compression.NONE}
    with write(path) as writer:
        for first_of_zoom in (0, 1, 5, 21, 85):
            writer.write_tile(first_of_zoom, tile.read_bytes())
        header = {**codecs, **extent, "center_zoom": 4}
        writer.finalize(header, {"attribution": attribution, "tile_size": tile_size})
    return path


def footprints(tile: str = "32TMR_0_0", item: str = "an item") -> dict:
    ring = [[8, 45], [9, 45], [9, 46], [8, 46], [8, 45]]
    feature = {
        "type": "Feature",
        "properties": {"id": tile, "item": item},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    return {"type": "FeatureCollection", "features": [feature]}


OUTLINE = footprints()["features"][0]["geometry"]


def build(archive: Path, title: str = "demo", tiles: dict | None = None) -> str:
    """The page of an archive, as if in results/preview beside results/pyramid."""
    output = archive.parents[1] / "preview" / "demo.html"
    output.parent.mkdir(exist_ok=True)
    build_preview(archive, tiles or footprints(), OUTLINE, output, title=title)
    return output.read_text(encoding="utf-8")


def map_data(page: str) -> dict:
    """What the page hands to the map library."""
    return json.loads(page.split("else pymaplibregl(")[1].split(");\n")[0])


def added(page: str, method: str) -> list:
    return [arguments for name, arguments in map_data(page)["calls"] if name == method]


@pytest.mark.parametrize("tile_size", [256, 512])
def test_imagery_is_the_archive_as_it_says_of_itself(tmp_path: Path, tile_size: int) -> None:
    page = build(write_archive(tmp_path / "pyramid" / "demo.pmtiles", tile_size=tile_size))
    [[name, imagery]] = added(page, "addSource")
    assert name == "imagery"
    assert imagery == {
        "type": "raster",
        "tiles": ["pmtiles://../pyramid/demo.pmtiles/{z}/{x}/{y}"],
        "tileSize": tile_size,
        "minzoom": 0,
        "maxzoom": 4,
        "bounds": [8.2, 45, 11.4, 47],
    }


@pytest.mark.parametrize(("given", "shown"), [(None, "#6b7278"), ("#12304a", "#12304a")])
def test_the_ground_is_the_background_of_the_map(tmp_path: Path, given, shown) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles")
    output = tmp_path / "demo.html"
    build_preview(archive, footprints(), OUTLINE, output, title="demo", ground=given)
    page = output.read_text(encoding="utf-8")
    [layer] = [
        layer
        for layer in map_data(page)["mapOptions"]["style"]["layers"]
        if layer["type"] == "background"
    ]
    assert layer["paint"] == {"background-color": shown}
    assert f"margin: 0; background: {shown};" in page


def test_archive_name_is_quoted_in_its_address(tmp_path: Path) -> None:
    page = build(write_archive(tmp_path / "pyramid" / "50% {z} #1?.pmtiles"))
    [[_, imagery]] = added(page, "addSource")
    address = "../pyramid/50%25%20%7Bz%7D%20%231%3F.pmtiles"
    assert imagery["tiles"] == [f"pmtiles://{address}/{{z}}/{{x}}/{{y}}"]


def test_map_holds_footprints_and_outline(tmp_path: Path) -> None:
    page = build(write_archive(tmp_path / "pyramid" / "demo.pmtiles"))
    sources = map_data(page)["mapOptions"]["style"]["sources"]
    assert sources["tiles"]["data"] == footprints()
    assert sources["region"]["data"] == OUTLINE


def test_map_opens_on_the_bounds(tmp_path: Path) -> None:
    options = map_data(build(write_archive(tmp_path / "pyramid" / "demo.pmtiles")))["mapOptions"]
    assert options["bounds"] == [8.2, 45, 11.4, 47]
    assert "center" not in options


@pytest.mark.parametrize(("tile_size", "zoom"), [(256, 3), (512, 4)])
def test_map_across_the_antimeridian_opens_on_the_centre(
    tmp_path: Path, tile_size: int, zoom: int
) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles", FIJI, tile_size)
    options = map_data(build(archive))["mapOptions"]
    assert "bounds" not in options
    assert (options["center"], options["zoom"]) == ([178.5, -17.5], zoom)


def test_text_from_outside_cannot_leave_its_place(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles", attribution=BREAKOUT)
    plain = build(write_archive(tmp_path / "plain" / "demo.pmtiles"))
    page = build(archive, title=BREAKOUT, tiles=footprints(BREAKOUT, BREAKOUT))
    for mark in ("<script", "</script", "<!--", "\u2028"):
        assert page.count(mark) == plain.count(mark) + (mark == "\u2028")  # in the title, harmless
    shown = "&lt;/script&gt;&lt;!--&lt;script&gt;&#39;&#34;&amp;{{ title }}\u2028"
    assert f"<title>{shown}</title>" in page


def test_text_from_outside_arrives_whole(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles", attribution="A <b> & co")
    page = build(archive, tiles=footprints(BREAKOUT))
    sources = map_data(page)["mapOptions"]["style"]["sources"]
    assert sources["tiles"]["data"] == footprints(BREAKOUT)
    [credit] = [options for control, options, _ in added(page, "addControl") if "Attr" in control]
    assert credit == {"compact": False, "customAttribution": "A &lt;b&gt; &amp; co"}


def test_same_arguments_give_same_bytes_and_no_other_file(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "pyramid" / "demo.pmtiles")
    assert build(archive) == build(archive)
    assert [path.name for path in (tmp_path / "preview").iterdir()] == ["demo.html"]
