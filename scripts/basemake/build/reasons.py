"""Why a job is done again, in the words of README's table of changes."""

from collections import Counter

from basemake.build.engine import DAMAGED, INPUT, INPUTS, MISSING, UNRECORDED, Stale

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
    """Return why a job is done, from the causes that engine.find_stale gives.

    Several reasons are joined by commas; FOLLOWS stands alone.
    """
    if INPUTS in causes:  # the extent of a mosaic's view only follows from its tiles
        causes = [cause for cause in causes if cause != "grid"]
    words = [word for cause, word in WORDS.items() if cause in causes]
    if set(causes) - {*WORDS, INPUT}:
        words.append("settings changed")
    return ", ".join(dict.fromkeys(words)) or FOLLOWS


def summary(stale: list[Stale]) -> str:
    """Return lines for people: how many jobs of which rule are stale, and why; new ones apart."""
    counts = Counter((job.rule, explain(job.causes)) for job in stale if job.causes != [MISSING])
    lines = [f"  {number:>6} {rule}: {why}" for (rule, why), number in counts.items()]
    return "\n".join(["Stale:", *lines]) if lines else "All that is there is fresh."
