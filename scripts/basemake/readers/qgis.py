"""A QGIS layer definition (.qlr): a file that QGIS opens as a layer, with its name and credit."""

import html
from collections.abc import Collection
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from basemake.readers.shown import ZXY, Shown

DOCTYPE = "<!DOCTYPE qgis-layer-definition>\n"


def best_for_qgis(
    region: str, outputs: Collection[str], suffix: str, *, tiles_kept: bool, remote: bool
) -> str:
    """Return the path, in results/, of what QGIS reads best of a region's map.

    `outputs` are those of the config, `suffix` is that of single web tiles. The COG is the map as
    drawn; the mosaic has the pixels of enhanced tiles, but is not cut along the polygon, and too
    many files to be read from afar (`remote`). The archive is the last choice, as GDAL reads raster
    PMTiles only since May 2026 (https://github.com/OSGeo/gdal/pull/14504). MBTiles are none: GDAL
    3.6 shows nothing of those with web tiles of 512 px.
    """
    choices = {
        f"pyramid/{region}.tif": "cog" in outputs,
        f"mosaic/{region}.vrt": tiles_kept and not remote,
        f"pyramid/{region}{ZXY}.{suffix}": "folder" in outputs,
    }
    archive = f"pyramid/{region}.pmtiles"
    return next((path for path, there in choices.items() if there), archive)


def layer_definition(shown: Shown, address: str) -> str:
    """Return the .qlr of a map in Web Mercator, whose data are at `address`.

    That is a path relative to the .qlr, or a URL; web tiles have {z}, {x} and {y} in it. QGIS
    itself writes many more elements: what is missing it takes from the data.
    """
    root = Element("qlr")
    group = SubElement(root, "layer-tree-group", name="", checked="Qt::Checked", expanded="1")
    names = {"id": "imagery", "name": shown.title}
    SubElement(group, "layer-tree-layer", names, checked="Qt::Checked", expanded="1")
    layer = SubElement(SubElement(root, "maplayers"), "maplayer", type="raster")
    provider, source = _source(shown, address)
    credit = html.unescape(shown.credit)
    texts = {"id": "imagery", "datasource": source, "layername": shown.title, "provider": provider}
    for name, text in {**texts, "attribution": credit}.items():
        SubElement(layer, name).text = text
    about = SubElement(layer, "resourceMetadata")
    for name, text in {"title": shown.title, "rights": credit}.items():
        SubElement(about, name).text = text
    crs = SubElement(SubElement(layer, "srs"), "spatialrefsys")
    SubElement(crs, "authid").text = "EPSG:3857"
    indent(root)
    return DOCTYPE + tostring(root, encoding="unicode") + "\n"


def _source(shown: Shown, address: str) -> tuple[str, str]:
    """Return QGIS's data provider and the source that it wants to be given."""
    remote = "://" in address
    if "{z}" not in address:
        return "gdal", f"/vsicurl/{address}" if remote else address
    url = quote(address if remote else f"file:{address}", safe=":/")
    zooms = f"zmin={shown.told['minzoom']}&zmax={shown.told['maxzoom']}"
    return "wms", f"type=xyz&url={url}&{zooms}&tilePixelRatio={shown.tile_size // 256}"
