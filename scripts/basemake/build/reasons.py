"""Why a job is done again: its causes, and the words for them in docs/rebuilds.md.

A cause is the name of a setting whose value changed, or one of the first five constants.
"""

from collections import Counter
from collections.abc import Iterable

MISSING = "missing"  # an output does not exist
DAMAGED = "damaged"  # an output is not as it was when its record was written
UNRECORDED = "unrecorded"  # an output has no readable record
INPUT = "input"  # the content of an input changed
INPUTS = "inputs"  # inputs were added or removed

DELETED = "deleted"
FOLLOWS = "follows from what is made anew"
RECIPE = "recipe changed"
CODEC = "tile codec changed"
WEB_TILES = "web tile settings changed"
SOURCE = "source settings changed"
ITEM = "item updated"
POLYGON = "polygon or clip changed"
TILES = "a tile joined or left"

# By the names that settings have in the rules, in the order in which several are told.
WORDS = {
    MISSING: DELETED,
    DAMAGED: "changed or damaged by hand",
    UNRECORDED: "without a record of what it was made of",
    INPUTS: TILES,
    "footprints": TILES,
    "code": "a script changed",
    "recipe": RECIPE,
    "codec": CODEC,
    **dict.fromkeys(("bands", "dn", "attribution", "metadata"), SOURCE),
    **dict.fromkeys(
        ("href", "size", "checksum", "digest", "updated", "item", "epsg", "quarter"), ITEM
    ),
    **dict.fromkeys(("outline", "extent"), POLYGON),
    **dict.fromkeys(("image_format", "quality", "tile_size", "min_zoom", "max_zoom"), WEB_TILES),
    **dict.fromkeys(("resampling", "grid"), WEB_TILES),
}


def explain(causes: list[str]) -> str:
    """Return a phrase for why a job is done.

    Several reasons are joined by commas; FOLLOWS is given only if there is no other.
    """
    if INPUTS in causes:  # the extent of a mosaic's view only follows from its tiles
        causes = [cause for cause in causes if cause != "grid"]
    words = [word for cause, word in WORDS.items() if cause in causes]
    if set(causes) - {*WORDS, INPUT}:
        words.append("settings changed")
    return ", ".join(dict.fromkeys(words)) or FOLLOWS


def summary(stale: Iterable[tuple[str, list[str]]]) -> str:
    """Return lines that count stale jobs by rule and reason, from pairs of rule and causes.

    Jobs whose outputs never existed are new, not stale, and are left out.
    """
    counts = Counter((rule, explain(causes)) for rule, causes in stale if causes != [MISSING])
    lines = [f"  {number:>6} {rule}: {why}" for (rule, why), number in counts.items()]
    return "\n".join(["Stale:", *lines]) if lines else "Everything that exists is fresh."
