"""basemake: make for satellite basemaps, from a polygon and a quarter to a web map.

config -> manifest -> bands -> tiles -> mosaic, pyramid -> preview, web, stac; each rules/*.smk is
one stage.
"""

from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"


wildcard_constraints:
    region="|".join(REGIONS),
    tile=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    band=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    epsg=r"\d{4,6}",
    metatile=r"\d+_\d+_\d+",


include: "rules/manifest.smk"
include: "rules/bands.smk"
include: "rules/tiles.smk"
include: "rules/mosaic.smk"
include: "rules/pyramid.smk"
include: "rules/preview.smk"
include: "rules/web.smk"
include: "rules/stac.smk"


EXPORTS = exports()  # before any job, so that an output that no rule makes is refused at once


# Every output is an input of this rule, because Snakemake does not make a missing intermediate file
# again while the files made from it exist.
rule all:
    """Make every enhanced tile, VRT, pyramid, page and web file that the config asks for."""
    default_target: True
    input:
        lambda wildcards: everything(),
