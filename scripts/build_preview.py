"""Preview: one HTML page that shows a pyramid in any browser, and fetches nothing from elsewhere.

MapLibre GL JS and its PMTiles protocol are those of the Python package `maplibre`. The page reads
ranges of the archive beside it, so it has to be served over HTTP (`make serve`).
"""

import html
import os
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from pmtiles.reader import Reader

from basemake.pixels.archive import open_archive
from basemake.system.files import writing

GROUND = "#6b7278"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>{{ css | safe }}</style>
<style>
html, body, #pymaplibregl { height: 100%; margin: 0; background: {{ ground }}; }
body { font: 14px/1.4 system-ui, sans-serif; }
#note { padding: 2em; margin: 0; }
.maplibregl-ctrl.layer-switcher-ctrl-simple { border-radius: 4px; overflow: hidden; }
.layer-switcher-ctrl-simple a { border: 0; font-size: 12px; color: #404040; text-align: left; }
.layer-switcher-ctrl-simple a::before { content: "✓ "; }
.layer-switcher-ctrl-simple a:not(.active)::before { visibility: hidden; }
.maplibregl-popup { max-width: 90vw !important; pointer-events: none; }
.maplibregl-popup-content { padding: 6px 10px; font-size: 12px; }
</style>
</head>
<body>
<p id="note" hidden>This map reads its archive over HTTP: run <code>make serve</code> and open the
address that it prints.</p>
<div id="pymaplibregl"></div>
<script>{{ js | safe }}</script>
<script>
if (location.protocol === "file:") document.getElementById("note").hidden = false;
else pymaplibregl({{ map | tojson }});
// The layer switcher's links point at "#": following one would drop the view from the address.
addEventListener("click", event => event.target.closest?.("a[href='#']") && event.preventDefault());
</script>
</body>
</html>
"""


def build_preview(
    archive: Path,
    footprints: dict,
    outline: dict,
    output: Path,
    *,
    title: str,
    ground: str | None = None,
) -> None:
    """Write a page that shows a raster PMTiles archive, its tiles and its region.

    `footprints` is a GeoJSON FeatureCollection with properties `id` and `item`, `outline` a GeoJSON
    geometry, both in degrees: they are put into the page as they are. `ground` is the colour of
    what the archive does not show, such as #12304a; None is GROUND. The archive's metadata must
    have `attribution`, shown as plain text, and `tile_size`, 256 or 512 px (else KeyError). Raises
    TileError if the archive is incomplete. Equal arguments give equal bytes.
    """
    header, metadata = read_archive(archive)
    ground = ground or GROUND
    tile_size = metadata["tile_size"]
    url = quote(Path(os.path.relpath(archive, output.parent)).as_posix())
    options = {
        "style": map_style(footprints, outline, ground),
        "hash": True,
        "attributionControl": False,  # for one that stays open
        **opening_view(header, tile_size),
    }
    calls = map_calls(imagery_source(url, header, tile_size), metadata["attribution"])
    page = Environment(autoescape=True).from_string(PAGE)
    html_text = page.render(
        title=title,
        ground=ground,
        css=bundled("pywidget.css"),
        js=bundled("pywidget.js"),
        map={"mapOptions": options, "calls": calls},
    )
    with writing(output) as part:
        part.write_text(html_text, encoding="utf-8")


def with_shares(footprints: dict, known: dict[str, dict]) -> dict:
    """Return footprints whose `item` names all items that their tile shows, with their shares.

    `known` is what the records of tiles keep, by tile: ids of items, best first, and their shares.
    """
    features = []
    for feature in footprints["features"]:
        stated = dict(feature["properties"])
        items, told = stated.pop("items", []), known.get(stated["id"], {})
        if items and len(items) == len(told.get("shares", [])):
            pairs = zip(items, told["shares"], strict=True)
            stated["item"] = ", ".join(f"{item} ({share:.1%})" for item, share in pairs if share)
        features.append({**feature, "properties": stated})
    return {**footprints, "features": features}


def bundled(name: str) -> str:
    """Return the text of a script or style sheet in the `maplibre` package."""
    path = distribution("maplibre").locate_file(f"maplibre/srcjs/{name}")
    return Path(str(path)).read_text(encoding="utf-8")
    # ^ not imported: that would set up logging and warn of optional packages


def read_archive(archive: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header (zooms, bounds in 1e-7 degrees) and metadata of a PMTiles archive."""
    with open_archive(archive) as (get_bytes, header):
        return header, Reader(get_bytes).metadata()


def degrees(header: dict[str, Any], *keys: str) -> list[float]:
    """Return header fields such as `min_lon` in degrees; the header has them in 1e-7 degrees."""
    return [header[f"{key}_e7"] / 1e7 for key in keys]


def map_style(footprints: dict, outline: dict, ground: str) -> dict[str, Any]:
    """Return a MapLibre style: a plain ground, the region's outline, and hidden tile footprints."""
    region = {"line-color": "#ffffff", "line-opacity": 0.7, "line-width": 1.5}
    tiles = {"fill-color": "rgba(0, 0, 0, 0)", "fill-outline-color": "rgba(255, 255, 255, 0.6)"}
    hidden = {"visibility": "none"}
    return {
        "version": 8,
        "sources": {
            "region": {"type": "geojson", "data": outline},
            "tiles": {"type": "geojson", "data": footprints},
        },
        "layers": [
            {"id": "ground", "type": "background", "paint": {"background-color": ground}},
            {"id": "region", "type": "line", "source": "region", "paint": region},
            {"id": "tiles", "type": "fill", "source": "tiles", "paint": tiles, "layout": hidden},
        ],
    }


def imagery_source(url: str, header: dict[str, Any], tile_size: int) -> dict[str, Any]:
    """Return the archive at `url` as a MapLibre source; a web tile is `tile_size` px wide."""
    return {
        "type": "raster",
        "tiles": [f"pmtiles://{url}/{{z}}/{{x}}/{{y}}"],
        "tileSize": tile_size,
        "minzoom": header["min_zoom"],
        "maxzoom": header["max_zoom"],
        "bounds": degrees(header, "min_lon", "min_lat", "max_lon", "max_lat"),
    }


def opening_view(header: dict[str, Any], tile_size: int) -> dict[str, Any]:
    """Return the map options that show the whole archive, from its least zoom to 4 above its last.

    With bounds from -180 to 180 (a region across the antimeridian) the map opens at the header's
    centre and zoom instead.
    """
    shift = tile_size // 256 - 2  # MapLibre counts zooms in tiles of 512 px
    zooms = {
        "minZoom": max(0, header["min_zoom"] + shift),
        "maxZoom": header["max_zoom"] + shift + 4,
    }
    west, south, east, north = degrees(header, "min_lon", "min_lat", "max_lon", "max_lat")
    if west > -180 or east < 180:
        padding = {"padding": 24}  # px
        return {**zooms, "bounds": [west, south, east, north], "fitBoundsOptions": padding}
    zoom = max(0, header["center_zoom"] + shift)
    return {**zooms, "center": degrees(header, "center_lon", "center_lat"), "zoom": zoom}


def map_calls(imagery: dict[str, Any], attribution: str) -> list[tuple[str, list[Any]]]:
    """Return the calls, (method, arguments), that complete the map once its style has loaded.

    They add the imagery, too: in the style it would keep the map from ever being loaded where web
    tiles in view are missing from the archive, and no call would be made.
    """
    credit = {"compact": False, "customAttribution": html.escape(attribution)}  # shown as HTML
    switcher = {"layerIds": ["tiles", "region"], "theme": "simple"}
    return [
        ("addSource", ["imagery", imagery]),
        ("addLayer", [{"id": "imagery", "type": "raster", "source": "imagery"}, "region"]),
        ("addControl", ["NavigationControl", {}, "top-right"]),
        ("addControl", ["LayerSwitcherControl", switcher, "top-left"]),
        ("addControl", ["AttributionControl", credit, "bottom-right"]),
        ("addControl", ["ScaleControl", {}, "bottom-right"]),
        ("addTooltip", ["tiles", None, "{{ id }}<br>{{ item }}"]),
    ]


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.build.records import read_record, recorded
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]), recorded(snakemake):
        settings = dict(snakemake.params.settings)
        names = [feature["properties"]["id"] for feature in settings["footprints"]["features"]]
        records = {name: read_record(f"results/tiles/{name}.tif") for name in names}
        known = {name: record.known for name, record in records.items() if record}
        settings["footprints"] = with_shares(settings["footprints"], known)
        build_preview(Path(snakemake.input.archive), output=Path(snakemake.output.page), **settings)
