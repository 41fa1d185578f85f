"""Why a job is run again: its causes, and phrases for them that follow docs/rebuilds.md.

A cause is one of the first five constants, or the name of a setting whose value changed.
"""

from collections import Counter
from collections.abc import Iterable

MISSING = "missing"  # an output does not exist
DAMAGED = "damaged"  # an output is not as it was when its record was written
UNRECORDED = "unrecorded"  # an output has no readable record
INPUT = "input"  # the content of an input changed
FORCED = "forced"  # the user asks for the job by an option such as --forcerun
INPUTS = "inputs"  # inputs were added or removed

DELETED = "deleted"
FOLLOWS = "follows from what is made anew"
NOTHING_STALE = "Nothing that exists is stale."
RECIPE = "recipe changed"
CODEC = "tile codec changed"
WEB_TILES = "web tile settings changed"
SOURCE = "source settings changed"
CREDIT = "title or credit changed"
FILL = "what fills holes changed"
PART = "another part of its bands is needed"
ITEM = "item updated, added or gone"
POLYGON = "polygon or clip changed"
TILES = "a tile or metatile joined or left"
NEW = "not made yet, or deleted"  # all that can be told of a single job without outputs

# Phrases by cause; settings have the names that the rules give them. `explain` keeps this order.
WORDS = {
    MISSING: DELETED,
    DAMAGED: "changed or damaged by hand",
    UNRECORDED: "without a record of what it was made of",
    FORCED: "asked for by an option",
    INPUTS: TILES,
    "footprints": TILES,
    "code": "a script changed",
    "recipe": RECIPE,
    "codec": CODEC,
    "fill": FILL,
    **dict.fromkeys(("bands", "dn", "mask"), SOURCE),
    **dict.fromkeys(("attribution", "description"), CREDIT),
    **dict.fromkeys(("href", "size", "checksum", "digest", "validator", "updated"), ITEM),
    **dict.fromkeys(("item", "items", "epsg", "quarter"), ITEM),
    "part": PART,
    **dict.fromkeys(("outline", "extent", "clip"), POLYGON),
    **dict.fromkeys(("image_format", "quality", "tile_size", "min_zoom", "max_zoom"), WEB_TILES),
    **dict.fromkeys(("resampling", "grid"), WEB_TILES),
}


def explain(causes: list[str]) -> str:
    """Return a phrase that gives the reasons for a job's `causes`, joined by commas.

    FOLLOWS is returned only if there is no other reason.
    """
    if INPUTS in causes:  # a mosaic's grid changes only because its tiles do
        causes = [cause for cause in causes if cause != "grid"]
    if "updated" in causes or "validator" in causes:  # what is needed of it is then told anew
        causes = [cause for cause in causes if cause != "part"]
    if "fill" in causes:  # other items have other files, and without any no mask is used
        causes = [cause for cause in causes if cause not in (INPUTS, "items", "mask")]
    if set(causes) - {MISSING, INPUT}:  # an output that is asked for anew was never there
        causes = [cause for cause in causes if cause != MISSING]
    words = [word for cause, word in WORDS.items() if cause in causes]
    if set(causes) - {*WORDS, INPUT}:
        words.append("settings changed")
    return ", ".join(dict.fromkeys(words)) or FOLLOWS


def explain_one(causes: list[str]) -> str:
    """Return the phrase for a single job: as `explain`, or NEW if it only has no outputs."""
    return NEW if causes == [MISSING] else explain(causes)


def summary(stale: Iterable[tuple[str, list[str]]]) -> str:
    """Return lines with the number of stale jobs for each rule and reason.

    `stale` are pairs of rule and causes. Jobs whose only cause is MISSING are left out: most of
    their outputs were never made, so they are new. Without any others it is NOTHING_STALE.
    """
    counts = Counter((rule, explain(causes)) for rule, causes in stale if causes != [MISSING])
    lines = [f"  {number:>6} {rule}: {why}" for (rule, why), number in counts.items()]
    return "\n".join(["Stale:", *lines]) if lines else NOTHING_STALE
