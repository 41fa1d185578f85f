"""Why a job is to be done again: Snakemake's words for it, as README's table of changes says it."""

import ast
import re
from collections.abc import Iterator
from typing import Any

DELETED = "deleted"
FOLLOWS = "follows from what is made anew"
RECIPE = "recipe changed"
CODEC = "tile codec changed"
WEB_TILES = "web tile settings changed"
SOURCE = "source settings changed"
ITEM = "item updated"
POLYGON = "polygon or clip changed"
TILES = "a tile joined or left"
SCRIPT = "a script changed"
NEWER = "newer files (an unfinished run, other tiles, a change by hand, times lost by a copy)"
OTHER = "settings changed"

# What the entries of params are about.
ABOUT = {
    **dict.fromkeys(("RECIPE", "step"), RECIPE),
    **dict.fromkeys(("ITEM", "QUARTER"), ITEM),
    **dict.fromkeys(("ATTRIBUTION", "TIFFTAG_COPYRIGHT", "scale", "offset", "nodata"), SOURCE),
    **dict.fromkeys(("description", "attribution"), SOURCE),
    **dict.fromkeys(("tile_size", "image_format", "quality", "min_zoom", "max_zoom"), WEB_TILES),
    **dict.fromkeys(("resampling", "format"), WEB_TILES),
    **dict.fromkeys(("extent", "coordinates"), POLYGON),
    "features": TILES,
}
# Params that are texts say it by their form.
FORMS = {
    "[0-9a-f]{16}": SCRIPT,
    "(MULTI)?POLYGON.*": POLYGON,
    "webp|zstd|deflate|jxl": CODEC,
    "nearest|bilinear|cubic|png|jpeg": WEB_TILES,
}
PARAMS = re.compile(r"Params have changed .*? before: (.*) now: (.*?)(?:; Software .*)?$", re.S)


def explain(rule: str, reason: str) -> str:
    """Return why a job of `rule`, which was done before, is done again: Snakemake's `reason`.

    Several causes are joined by commas; FOLLOWS stands alone.
    """
    return ", ".join(dict.fromkeys(_causes(rule, reason))) or FOLLOWS


def _causes(rule: str, reason: str) -> Iterator[str]:
    if "Missing output files: " in reason:
        yield DELETED
    if "Incomplete output files: " in reason:
        yield "was left half-made"
    if re.search(r"Updated input files: [^;]", reason):
        yield NEWER
    joined = "Set of input files has changed" in reason
    if joined:
        yield TILES
    params = PARAMS.search(reason)
    if params and rule == "fetch_band":
        yield ITEM
    elif params and not (joined and rule == "build_zone_vrt"):  # its grid only follows
        yield from _differences(*params.groups())
    if "Software environment" in reason:
        yield "software environment changed"
    if "Forced execution" in reason:
        yield "asked for by name"


def _differences(before: str, now: str) -> Iterator[str]:
    """Yield what two lists of params, as Snakemake prints them, differ in."""
    try:
        old, new = (ast.literal_eval(f"[{text.strip()}]") for text in (before, now))
    except (ValueError, SyntaxError):
        yield OTHER
        return
    old, new = (dict(pair for value in values for pair in _entries(value)) for values in (old, new))
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            yield key if key in FORMS.values() else ABOUT.get(key, OTHER)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a param; of one without names its meaning, by its form, and itself."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _entries(entry) if isinstance(entry, dict) else [(key, entry)]
    elif isinstance(value, str):
        forms = (about for form, about in FORMS.items() if re.fullmatch(form, value, re.S))
        yield next(forms, OTHER), value
    elif value is None:  # a metatile that the polygon does not cut
        yield POLYGON, value
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield "step", value
    elif isinstance(value, int):
        yield "ITEM", value  # the EPSG code
    else:
        yield "resampling", value  # the grid of a mosaic's view: its pixels are the top zoom's
