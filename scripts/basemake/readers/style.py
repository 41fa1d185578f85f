"""A MapLibre style, to open a map by itself or to take its layers into another style."""

from typing import Any

from basemake.readers.shown import Shown


def style(shown: Shown) -> dict[str, Any]:
    """Return a style (https://maplibre.org/maplibre-style-spec/) of ground and imagery.

    It opens on the map's middle, at a zoom at which the map is 256 to 512 px wide. MapLibre counts
    zooms in tiles of 512 px, PMTiles in web tiles.
    """
    told = shown.told
    *centre, zoom = told["center"]
    source = {
        "type": "raster",
        "tiles": told["tiles"],
        "tileSize": shown.tile_size,
        "minzoom": told["minzoom"],
        "maxzoom": told["maxzoom"],
        "bounds": told["bounds"],
        "attribution": shown.credit,
    }
    return {
        "version": 8,
        "name": shown.title,
        "center": centre,
        "zoom": max(0, zoom - 1),
        "sources": {"imagery": source},
        "layers": [
            {"id": "ground", "type": "background", "paint": {"background-color": shown.ground}},
            {"id": "imagery", "type": "raster", "source": "imagery"},
        ],
    }
