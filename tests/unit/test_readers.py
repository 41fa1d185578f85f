"""What opens a map elsewhere: the addresses in it, and that text from outside stays text."""

import hashlib
import html
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from basemake.errors import BasemakeError
from basemake.pixels.archive import TILE_TYPES, pack_parts, write_part
from basemake.pixels.webtiles import WebTile
from basemake.readers.pages import LEAFLET, OPENLAYERS, PMTILES, bundled
from basemake.readers.qgis import best_for_qgis
from build_web import build_web

BASE = "https://maps.example.org/alps"
BREAKOUT = """</script><!--<script>'"&{{ title }}<b>"""
SETTINGS = {"title": "alps, 2025Q3", "ground": None, "url": None, "suffix": None}
# Of the files that the projects publish: pmtiles@3.2.1, ol@10.7.0 and leaflet@1.9.3 of npm
DIGESTS = {
    "roadstyle/vendor/pmtiles.js": "367c19f8936d1d6c",
    "pyopenlayersqt/vendor/ol/ol.js": "c8a9508a5f1806a6",
    "pyopenlayersqt/vendor/ol/ol.css": "abc8afd72cc10bd2",
    "xstatic/pkg/leaflet/data/leaflet.js": "5819285cec137b22",
    "xstatic/pkg/leaflet/data/leaflet.css": "90b693d86392a477",
}


def build(tmp_path: Path, tile_size: int = 256, attribution: str = "EU", **settings) -> Path:
    """What is written of an archive, in the folder that is returned."""
    archive, part = tmp_path / "pyramid/alps.pmtiles", tmp_path / "part.pmtiles"
    archive.parent.mkdir(parents=True, exist_ok=True)
    write_part(part, [(WebTile(z, 0, 0), b"an image") for z in range(5)], "webp")
    degrees = {"min_lon": 8.2, "min_lat": 45, "max_lon": 11.4, "max_lat": 47}
    degrees |= {"center_lon": 9.8, "center_lat": 46}
    header = {f"{name}_e7": round(value * 1e7) for name, value in degrees.items()}
    metadata = {"name": "alps", "description": "of a test", "attribution": attribution}
    pack_parts(
        [part],
        archive,
        {**header, "tile_type": TILE_TYPES["webp"], "center_zoom": 4},
        {**metadata, "tile_size": tile_size},
    )
    folder = tmp_path / "web/alps"
    settings = {"for_qgis": "mosaic/alps.vrt", **SETTINGS, **settings}
    build_web(archive, folder, **settings)
    return folder


def told(page: Path) -> dict:
    """What a page tells its script of the map."""
    return json.loads(page.read_text().split("const shown = ")[1].split(";\n")[0])


def read_qlr(folder: Path) -> dict[str, str | None]:
    """The elements of QGIS's layer, by name."""
    layer = ElementTree.fromstring((folder / "alps.qlr").read_text()).find(".//maplayer")
    assert layer is not None
    return {element.tag: element.text for element in layer.iter()}


@pytest.mark.parametrize("url", [None, BASE, f"{BASE}/"])
@pytest.mark.parametrize("suffix", [None, "webp"])
def test_all_name_the_web_tiles_by_one_address(tmp_path: Path, url, suffix) -> None:
    folder = build(tmp_path, url=url, suffix=suffix)
    place = f"{BASE if url else '../..'}/pyramid/alps"
    tiles = f"{place}/{{z}}/{{x}}/{{y}}.webp"
    if not suffix:
        tiles = f"pmtiles://{place}.pmtiles/{{z}}/{{x}}/{{y}}"
    assert json.loads((folder / "tilejson.json").read_text())["tiles"] == [tiles]
    style = json.loads((folder / "style.json").read_text())
    assert style["sources"]["imagery"]["tiles"] == [tiles]
    for name in ("openlayers.html", "leaflet.html"):
        page = folder / name
        assert told(page)["tiles"] == tiles
        assert told(page)["archive"] == (None if suffix else f"{place}.pmtiles")
        assert ("new pmtiles.PMTiles(" in page.read_text()) == (suffix is None)


@pytest.mark.parametrize("tile_size", [256, 512])
def test_a_style_has_zooms_bounds_and_ground(tmp_path: Path, tile_size: int) -> None:
    folder = build(tmp_path, tile_size, ground="#12304a", attribution="A <b> & co")
    style = json.loads((folder / "style.json").read_text())
    source = style["sources"]["imagery"]
    assert (source["minzoom"], source["maxzoom"], source["tileSize"]) == (0, 4, tile_size)
    assert source["bounds"] == [8.2, 45, 11.4, 47]
    assert source["attribution"] == "A &lt;b&gt; &amp; co"
    assert (
        json.loads((folder / "tilejson.json").read_text())["attribution"] == source["attribution"]
    )
    assert (style["name"], style["center"], style["zoom"]) == ("alps, 2025Q3", [9.8, 46], 3)
    assert [layer["id"] for layer in style["layers"]] == ["ground", "imagery"]
    assert style["layers"][0]["paint"] == {"background-color": "#12304a"}
    assert "margin: 0; background: #12304a;" in (folder / "leaflet.html").read_text()


@pytest.mark.parametrize(
    ("outputs", "tiles_kept", "here", "remote"),
    [
        (["pmtiles", "cog", "folder", "mbtiles"], True, "alps.tif", "alps.tif"),
        (["folder", "mbtiles"], True, "alps.vrt", "alps/{z}/{x}/{y}.webp"),
        (["folder"], False, "alps/{z}/{x}/{y}.webp", "alps/{z}/{x}/{y}.webp"),
        (["pmtiles"], False, "alps.pmtiles", "alps.pmtiles"),
    ],
)
def test_what_qgis_reads_best(outputs, tiles_kept, here, remote) -> None:
    for expected, away in ((here, False), (remote, True)):
        found = best_for_qgis("alps", outputs, "webp", tiles_kept=tiles_kept, remote=away)
        assert found == f"{'mosaic' if expected.endswith('.vrt') else 'pyramid'}/{expected}"


@pytest.mark.parametrize(
    ("for_qgis", "url", "provider", "source"),
    [
        ("mosaic/alps.vrt", None, "gdal", "../../mosaic/alps.vrt"),
        ("pyramid/alps.tif", BASE, "gdal", f"/vsicurl/{BASE}/pyramid/alps.tif"),
        (
            *("pyramid/alps/{z}/{x}/{y}.webp", None, "wms"),
            "type=xyz&url=file:../../pyramid/alps/%7Bz%7D/%7Bx%7D/%7By%7D.webp"
            "&zmin=0&zmax=4&tilePixelRatio=2",
        ),
        (
            *("pyramid/alps/{z}/{x}/{y}.webp", f"{BASE}%20&co", "wms"),
            f"type=xyz&url={BASE}%2520%26co/pyramid/alps/%7Bz%7D/%7Bx%7D/%7By%7D.webp"
            "&zmin=0&zmax=4&tilePixelRatio=2",
        ),
    ],
    ids=["mosaic", "COG by URL", "folder", "folder by URL"],
)
def test_the_source_of_a_layer(tmp_path: Path, for_qgis, url, provider, source) -> None:
    layer = read_qlr(build(tmp_path, 512, for_qgis=for_qgis, url=url))
    assert (layer["provider"], layer["datasource"]) == (provider, source)


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    plain = build(tmp_path / "plain")
    folder = build(tmp_path, title=BREAKOUT, attribution=BREAKOUT)
    for name in ("openlayers.html", "leaflet.html"):
        page, usual = ((place / name).read_text() for place in (folder, plain))
        for mark in ("<script", "</script", "<!--"):
            assert page.count(mark) == usual.count(mark)
    layer = read_qlr(folder)
    assert (layer["layername"], layer["attribution"], layer["rights"]) == (BREAKOUT,) * 3
    said = json.loads((folder / "tilejson.json").read_text())["attribution"]
    assert said == html.escape(BREAKOUT, quote=False)


def test_the_same_bytes_and_no_other_file(tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in build(tmp_path).iterdir()}
    assert {path.name: path.read_bytes() for path in build(tmp_path).iterdir()} == first
    assert len(first) == 5


def test_libraries_are_those_that_their_projects_publish() -> None:
    for library in (PMTILES, OPENLAYERS, LEAFLET):
        for name in library.files:
            found = hashlib.sha256(bundled(library.package, name).encode()).hexdigest()
            assert found[:16] == DIGESTS[name]


def test_a_library_that_is_not_installed() -> None:
    with pytest.raises(BasemakeError, match="no-such-package is not installed: run `make env`"):
        bundled("no-such-package", "a.js")
