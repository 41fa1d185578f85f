"""Pages that show a map by OpenLayers and by Leaflet, and ask no other host for anything.

Of the Python packages with the libraries only the JavaScript and style sheets are used, which are
those that OpenLayers, Leaflet and PMTiles publish.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment

from basemake.errors import BasemakeError
from basemake.readers.shown import Shown


class Library(NamedTuple):
    """Files of a Python package that a page needs, and the comment that tells whose they are."""

    package: str
    files: tuple[str, ...]
    notice: str


PMTILES = Library(
    "roadstyle",
    ("roadstyle/vendor/pmtiles.js",),
    "PMTiles 3.2.1, (c) Protomaps LLC, BSD 3-Clause: https://github.com/protomaps/PMTiles",
)
OPENLAYERS = Library(
    "pyopenlayersqt",
    ("pyopenlayersqt/vendor/ol/ol.js", "pyopenlayersqt/vendor/ol/ol.css"),
    "OpenLayers 10.7.0, (c) OpenLayers contributors, BSD 2-Clause: https://openlayers.org",
)
LEAFLET = Library(
    "xstatic-leaflet",
    ("xstatic/pkg/leaflet/data/leaflet.js", "xstatic/pkg/leaflet/data/leaflet.css"),
    "Leaflet 1.9.3, (c) Volodymyr Agafonkin, CloudMade, BSD 2-Clause: https://leafletjs.com",
)

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
{%- for notice, text in styles %}
<!-- {{ notice }} -->
<style>{{ text | safe }}</style>
{%- endfor %}
<style>
html, body, #map { height: 100%; margin: 0; background: {{ ground }}; }
body { font: 14px/1.4 system-ui, sans-serif; }
h1, #note { position: absolute; z-index: 1000; margin: 0; padding: 4px 8px; border-radius: 4px;
  background: rgba(255, 255, 255, 0.85); color: #222; }
h1 { top: 10px; right: 10px; max-width: 60%; font-size: 14px; font-weight: 600;
  pointer-events: none; }
#note { top: 40%; left: 50%; width: 20em; max-width: 80%; transform: translateX(-50%);
  padding: 1em; overflow-wrap: anywhere; }
#map .ol-scale-line, #map .leaflet-bottom.leaflet-left { bottom: 30px; }
#map .ol-attribution { right: 0; bottom: 0; border-radius: 4px 0 0; }
#map .ol-attribution ul { font-size: 12px; }
</style>
</head>
<body>
<div id="map" tabindex="0"></div>
<h1>{{ title }}</h1>
<p id="note" role="alert" hidden></p>
{%- for notice, text in scripts %}
<!-- {{ notice }} -->
<script>{{ text | safe }}</script>
{%- endfor %}
<script>
// The map: the address of its web tiles, zooms, bounds and centre in degrees, credit as HTML.
const shown = {{ shown | tojson }};
const [west, south, east, north] = shown.bounds;
const round = west <= -180 && east >= 180;  // the map spans the antimeridian: bounds tell nothing
{%- if shown.archive %}
// The web tiles are in one archive, of which the PMTiles library reads ranges.
const archive = new pmtiles.PMTiles(shown.archive);
archive.getHeader().catch(error => {
  const note = document.getElementById("note");
  note.textContent = location.protocol === "file:" && !shown.archive.includes("://")
    ? "This map reads its archive over HTTP: run make serve, and open this page below the address"
      + " that it prints."
    : `The map's archive ${shown.archive} cannot be read: ${error.message}`;
  note.hidden = false;
});
{%- endif %}
{{ script | safe }}</script>
</body>
</html>
"""

OPENLAYERS_SCRIPT = """
const options = {
  attributions: shown.credit,
  tileGrid: ol.tilegrid.createXYZ({
    minZoom: shown.minzoom, maxZoom: shown.maxzoom, tileSize: shown.tileSize,
  }),
};
{%- if shown.archive %}
const loader = async (z, x, y, { signal }) => {
  const tile = await archive.getZxy(z, x, y, signal);
  if (tile) return createImageBitmap(new Blob([tile.data]));
  const nothing = document.createElement("canvas");
  nothing.width = nothing.height = shown.tileSize;
  return nothing;
};
const source = new ol.source.ImageTile({ ...options, loader });
{%- else %}
const source = new ol.source.XYZ({ ...options, url: shown.tiles });
{%- endif %}
const extent = ol.proj.transformExtent(shown.bounds, "EPSG:4326", "EPSG:3857");
const offset = Math.log2(shown.tileSize / 256);  // OpenLayers counts a map's zooms at 256 px
const map = new ol.Map({
  target: "map",
  layers: [new ol.layer.Tile({ source, extent: round ? undefined : extent })],
  controls: ol.control.defaults.defaults({ attributionOptions: { collapsible: false } })
    .extend([new ol.control.ScaleLine()]),
  view: new ol.View({
    center: ol.proj.fromLonLat(shown.center.slice(0, 2)),
    zoom: shown.center[2],
    minZoom: shown.minzoom + offset,
    maxZoom: shown.maxzoom + offset + 4,
  }),
});
if (!round) map.getView().fit(extent, { padding: [24, 24, 24, 24] });
"""

LEAFLET_SCRIPT = """
const offset = Math.log2(shown.tileSize / 256);  // Leaflet counts zooms in tiles of 256 px
const bounds = round ? undefined : [[south, west], [north, east]];
const options = {
  attribution: shown.credit,
  bounds,
  tileSize: shown.tileSize,
  zoomOffset: -offset,
  minNativeZoom: shown.minzoom + offset,
  maxNativeZoom: shown.maxzoom + offset,
  maxZoom: shown.maxzoom + offset + 4,
};
{%- if shown.archive %}
const Archive = L.GridLayer.extend({
  createTile({ z, x, y }, done) {
    const image = document.createElement("img");
    image.alt = "";
    archive.getZxy(z - offset, x, y).then(async tile => {
      image.src = tile ? URL.createObjectURL(new Blob([tile.data])) : L.Util.emptyImageUrl;
      await image.decode();
      URL.revokeObjectURL(image.src);
      done(null, image);
    }).catch(error => done(error, image));
    return image;
  },
});
const layer = new Archive(options);
{%- else %}
const layer = L.tileLayer(shown.tiles, options);
{%- endif %}
const map = L.map("map", {
  layers: [layer], minZoom: shown.minzoom + offset, maxZoom: shown.maxzoom + offset + 4,
});
map.attributionControl.setPrefix(false);
L.control.scale({ imperial: false }).addTo(map);
if (round) map.setView([shown.center[1], shown.center[0]], shown.center[2]);
else map.fitBounds(bounds, { padding: [24, 24] });
"""


def openlayers_page(shown: Shown) -> str:
    """Return a page that shows a map by OpenLayers."""
    return _page(shown, OPENLAYERS, OPENLAYERS_SCRIPT)


def leaflet_page(shown: Shown) -> str:
    """Return a page that shows a map by Leaflet."""
    return _page(shown, LEAFLET, LEAFLET_SCRIPT)


def _page(shown: Shown, library: Library, script: str) -> str:
    libraries = [library, PMTILES] if shown.archive else [library]
    names = {"minzoom", "maxzoom", "bounds", "center"}
    data = {
        **{name: value for name, value in shown.told.items() if name in names},
        "tiles": shown.told["tiles"][0],
        "archive": shown.archive,
        "tileSize": shown.tile_size,
        "credit": shown.credit,
    }
    environment = Environment(autoescape=True)
    return environment.from_string(PAGE).render(
        title=shown.title,
        ground=shown.ground,
        styles=_texts(libraries, ".css"),
        scripts=_texts(libraries, ".js"),
        shown=data,
        script=environment.from_string(script).render(shown=data),
    )


def _texts(libraries: list[Library], suffix: str) -> list[tuple[str, str]]:
    """Return notice and text of each library's files with a suffix."""
    return [
        (library.notice, bundled(library.package, name))
        for library in libraries
        for name in library.files
        if name.endswith(suffix)
    ]


def bundled(package: str, name: str) -> str:
    """Return the text of a file of an installed package; BasemakeError if it is not installed."""
    try:
        path = Path(str(distribution(package).locate_file(name)))  # importing it would need others
    except PackageNotFoundError:
        raise BasemakeError(
            f"the Python package {package} is not installed: run `make env`, or in a conda"
            " environment `pip install --no-deps -r envs/requirements-pages.txt`."
        ) from None
    return path.read_bytes().decode()
