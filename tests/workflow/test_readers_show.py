"""What opens a map elsewhere, in the programs it is for: MapLibre, OpenLayers and Leaflet in a real
browser, and QGIS.
"""

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from chromium import SIZE, Tab, eventually
from osgeo import gdal
from PIL import Image, ImageColor
from runs import Scene
from test_browser import served

from basemake.pixels.archive import TILE_TYPES, pack_parts, write_part
from basemake.pixels.webtiles import WebTile
from build_web import build_web
from export_folder import export_folder

HOSTILE = '</script><script>console.error(1)</script><img src="//example.org/x"> & <!-- {{ id }}'
MAX_ZOOM = 4
MISSING = (4, 6, 7)
PAGES = ["openlayers", "leaflet"]
QUADRANTS = [(-120, -100), (120, -100), (-120, 100), (120, 100)]
# A program for the Python that has QGIS: it renders the layer of each .qlr, and tells of it.
RENDER = """
import json, sys
from qgis.core import *
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor
app = QgsApplication([], False)
app.initQgis()
project = QgsProject.instance()
for job in json.load(sys.stdin):
    project.clear()
    QgsLayerDefinition.loadLayerDefinition(job["qlr"], project, project.layerTreeRoot())
    [layer] = project.mapLayers().values()
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(QgsCoordinateReferenceSystem("EPSG:3857"))
    settings.setBackgroundColor(QColor("#ffffff"))
    settings.setOutputSize(QSize(*job["size"]))
    settings.setExtent(QgsRectangle(*job["extent"]))
    render = QgsMapRendererParallelJob(settings)
    render.start()
    render.waitForFinished()
    render.renderedImage().save(job["qlr"] + ".png")
    rights, names = layer.metadata().rights(), [tree.name() for tree in project.layerTreeRoot().children()]
    print(json.dumps([layer.isValid(), layer.name(), names, layer.attribution(), rights, layer.crs().authid()]))
"""  # noqa: E501


def colour(z: int, x: int, y: int) -> tuple[int, int, int]:
    """The colour of a web tile, one for each up to zoom 4."""
    return 60 * z, 16 * x, 16 * y


def at_the_middle(z: int) -> list[tuple[int, int, int]]:
    """The colours of the four web tiles of a zoom that meet at 0 N 0 E, row by row."""
    half = 2**z // 2
    return [colour(z, x, y) for y in (half - 1, half) for x in (half - 1, half)]


@cache
def web_tiles(tile_size: int) -> list[tuple[WebTile, bytes]]:
    """The web tiles of the world but one, up to zoom 4, each of its colour."""
    tiles = []
    for z in range(MAX_ZOOM + 1):
        for tile in (WebTile(z, x, y) for x in range(2**z) for y in range(2**z)):
            data = io.BytesIO()
            image = Image.new("RGB", (tile_size, tile_size), colour(*tile))
            image.save(data, "webp", lossless=True, method=0)
            if tile != MISSING:
                tiles.append((tile, data.getvalue()))
    return tiles


def write_map(results: Path, tile_size: int = 256, reach: float = 90, **settings) -> Path:
    """The world in an archive, or a folder, and the folder of its readers, which is returned."""
    archive, folder = results / "pyramid/world.pmtiles", results / "web/world"
    for name in ("pyramid", "preview"):
        (results / name).mkdir()
    (results / "preview/world.html").touch()  # by which a folder of results is known
    write_part(results / "part", web_tiles(tile_size), "webp")
    degrees = {"min_lon": -reach, "min_lat": -60, "max_lon": reach, "max_lat": 60}
    degrees |= {"center_lon": 0 if reach < 180 else 178, "center_lat": 0}
    header = {f"{name}_e7": round(1e7 * value) for name, value in degrees.items()}
    header |= {"center_zoom": MAX_ZOOM, "tile_type": TILE_TYPES["webp"]}
    metadata = {"name": "world", "description": "of a test", "attribution": HOSTILE}
    pack_parts([results / "part"], archive, header, {**metadata, "tile_size": tile_size})
    usual = {"title": HOSTILE, "ground": None, "url": None, "suffix": None}
    settings = {**usual, "for_qgis": "pyramid/world/{z}/{x}/{y}.webp", **settings}
    if settings["suffix"]:
        export_folder(archive, results / "pyramid/world", "webp")
    build_web(archive, folder, **settings)
    return folder


def look(tab: Tab, page: str, zoom: int) -> None:
    """Go to 0 N 0 E, at a zoom that counts in tiles of 256 px, as both libraries do."""
    view = {
        "openlayers": f"map.getView().setCenter([0, 0]), map.getView().setZoom({zoom})",
        "leaflet": f"map.setView([0, 0], {zoom}, {{ animate: false }})",
    }
    tab.evaluate(f"{view[page]}; 0")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("tile_size", "zoom", "z"), [(256, 4, 4), (512, 4, 3), (256, 6, 4)], ids=str
)
def test_web_tiles_of_an_archive_are_where_they_belong(
    tab: Tab, tmp_path: Path, page: str, tile_size: int, zoom: int, z: int
) -> None:
    write_map(tmp_path, tile_size)
    with served(tmp_path / "preview/world.html") as address:
        tab.open(address.replace("preview/world.html", f"web/world/{page}.html"))
        look(tab, page, zoom)
        eventually(lambda: tab.colours(*QUADRANTS), at_the_middle(z))


@pytest.mark.parametrize("page", PAGES)
def test_a_map_with_a_hole_opens_whole_with_title_and_credit(
    tab: Tab, tmp_path: Path, page: str
) -> None:
    write_map(tmp_path, ground="#123456")
    with served(tmp_path / "preview/world.html") as address:
        tab.open(address.replace("preview/world.html", f"web/world/{page}.html"))
        west_and_east = [(-315, 0), (315, 0)]  # px: the map, of 180 degrees, leaves room there
        eventually(lambda: tab.colours(*west_and_east), [ImageColor.getrgb("#123456")] * 2)
        eventually(lambda: tab.colours((-60, -60)) != [ImageColor.getrgb("#123456")], True)
        credit = {"openlayers": ".ol-attribution", "leaflet": ".leaflet-control-attribution"}[page]
        text = f"document.querySelector('{credit}').innerText.trim()"
        eventually(lambda: tab.evaluate(text), HOSTILE)
        assert tab.evaluate(f"document.querySelector('{credit}').checkVisibility()")
        assert tab.evaluate("document.title") == HOSTILE
        assert tab.evaluate("document.querySelector('h1').textContent") == HOSTILE
        look(tab, page, 4)
        # In the web tile MISSING, and at its edges: its corner is 256 px west of the middle.
        hole = [(-284, -128), (-257, -128), (-284, -1)]
        eventually(lambda: tab.colours(*hole), [ImageColor.getrgb("#123456")] * 3)


@pytest.mark.parametrize("page", PAGES)
def test_a_map_across_the_antimeridian_opens_at_its_middle(
    tab: Tab, tmp_path: Path, page: str
) -> None:
    write_map(tmp_path, reach=180)
    with served(tmp_path / "preview/world.html") as address:
        tab.open(address.replace("preview/world.html", f"web/world/{page}.html"))
        both_sides = [(-60, -60), (200, -60)]
        eventually(lambda: tab.colours(*both_sides), [colour(4, 15, 7), colour(4, 0, 7)])


@pytest.mark.parametrize("page", PAGES)
def test_web_tiles_of_a_folder_open_from_a_disk(tab: Tab, tmp_path: Path, page: str) -> None:
    folder = write_map(tmp_path, suffix="webp")
    tab.open((folder / f"{page}.html").as_uri())
    look(tab, page, 4)
    eventually(lambda: tab.colours(*QUADRANTS), at_the_middle(4))
    tab.events.clear()  # of the web tile that is not there, the browser tells


@pytest.mark.parametrize("page", PAGES)
def test_an_archive_that_cannot_be_read_is_named(tab: Tab, tmp_path: Path, page: str) -> None:
    folder = write_map(tmp_path)
    note = "document.getElementById('note').checkVisibility()"
    note = f"{note} && document.getElementById('note').textContent"
    tab.open((folder / f"{page}.html").as_uri())
    eventually(lambda: "run make serve" in (tab.evaluate(note) or ""), True)
    (tmp_path / "pyramid/world.pmtiles").unlink()
    with served(tmp_path / "preview/world.html") as address:
        tab.open(address.replace("preview/world.html", f"web/world/{page}.html"))
        why = "archive ../../pyramid/world.pmtiles cannot be read: Bad response code: 404"
        eventually(lambda: tab.evaluate(note), f"The map's {why}")
    tab.events.clear()  # of what is not there, the browser tells, too


@pytest.mark.parametrize("suffix", [None, "webp"], ids=["archive", "folder"])
def test_maplibre_shows_the_style(tab: Tab, tmp_path: Path, suffix: str | None) -> None:
    folder = write_map(tmp_path, suffix=suffix)
    script = distribution("maplibre").locate_file("maplibre/srcjs/pywidget.js")
    shutil.copy(str(script), folder / "maplibre.js")
    options = {"style": "style.json", "center": [0, 0], "zoom": 3}
    (folder / "page.html").write_text(
        '<!DOCTYPE html><link rel="icon" href="data:,"><style>body { margin: 0 }</style>'
        '<div id="pymaplibregl" style="height: 100vh"></div><script src="maplibre.js"></script>'
        f"<script>pymaplibregl({json.dumps({'mapOptions': options, 'calls': []})})</script>"
    )
    with served(tmp_path / "preview/world.html") as address:
        tab.open(address.replace("preview/world.html", "web/world/page.html"))
        eventually(lambda: tab.colours(*QUADRANTS), at_the_middle(4))
        credit = "document.querySelector('.maplibregl-ctrl-attrib-inner')?.textContent"
        eventually(lambda: HOSTILE in (tab.evaluate(credit) or ""), True)
    if suffix:
        tab.events.clear()


@pytest.fixture(scope="session")
def rendered() -> Callable[[list[dict]], list[list]]:
    """A function that lets QGIS render layers, and returns what it tells of each."""
    pythons = [path for path in ("/usr/bin/python3", shutil.which("python3")) if path]
    environment = {"QT_QPA_PLATFORM": "offscreen", "PATH": "/usr/bin:/bin"}

    def run(python: str, program: str, given: str = "") -> subprocess.CompletedProcess:
        return subprocess.run(
            [python, "-c", program], input=given, capture_output=True, text=True, env=environment
        )

    found = [one for one in pythons if run(one, "import qgis.core").returncode == 0]
    if not found:
        pytest.skip("no QGIS on this machine: apt-get install qgis python3-qgis")

    def render(jobs: list[dict]) -> list[list]:
        done = run(found[0], RENDER, json.dumps(jobs))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return render


def test_qgis_shows_its_layers(rendered, north: Scene, tmp_path: Path) -> None:
    """The mosaic as GDAL reads it; and web tiles, beside the layer and by an address."""
    mosaic = gdal.Open(str(north.results / "mosaic/first.vrt"))
    west, pixel, _, top, _, _ = mosaic.GetGeoTransform()
    size = mosaic.RasterXSize, mosaic.RasterYSize
    extent = [west, top - size[1] * pixel, west + size[0] * pixel, top]
    middle = [-1.9e6, -1.9e6, 1.9e6, 1.9e6]  # m: of four web tiles of zoom 4
    folder = write_map(tmp_path, suffix="webp")
    with served(tmp_path / "preview/world.html") as address:
        away = tmp_path / "web/away"
        url = address.removesuffix("/preview/world.html")
        shutil.copy(tmp_path / "pyramid/world.pmtiles", tmp_path / "pyramid/away.pmtiles")
        usual = {"title": "away", "ground": None, "suffix": "webp"}
        layer = {**usual, "url": url, "for_qgis": "pyramid/world/{z}/{x}/{y}.webp"}
        build_web(tmp_path / "pyramid/away.pmtiles", away, **layer)
        shutil.copytree(north.results / "web/first", tmp_path / "web/first")
        (tmp_path / "mosaic").symlink_to(north.results / "mosaic")
        paths = [tmp_path / "web/first/first.qlr", folder / "world.qlr", away / "away.qlr"]
        told = rendered(
            [
                {"qlr": str(paths[0]), "extent": extent, "size": size},
                *({"qlr": str(path), "extent": middle, "size": SIZE[:1] * 2} for path in paths[1:]),
            ]
        )
    titles = ["first, 2025Q3", HOSTILE, "away"]
    credits = ["Simulated imagery", HOSTILE, HOSTILE]
    for one, title, credit in zip(told, titles, credits, strict=True):
        assert one == [True, title, [title], credit, [credit], "EPSG:3857"]
    shown = [np.asarray(Image.open(f"{path}.png").convert("RGB")) for path in paths]
    rgba = np.moveaxis(mosaic.ReadAsArray(), 0, -1)
    alpha = rgba[..., 3] == 255
    assert (shown[0][alpha] == rgba[alpha][:, :3]).all()
    assert (shown[0][rgba[..., 3] == 0] == 255).all()
    for image in shown[1:]:
        corners = [image[y, x] for y in (100, 540) for x in (100, 540)]
        assert [tuple(pixel) for pixel in corners] == at_the_middle(4)
