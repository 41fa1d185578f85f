"""Manifest: reads config, regions and source; makes results/manifest.geojson."""

import time


localrules:
    manifest,


# It searches whenever it is asked (a param that is never the same), and declares no output, so that
# the file stays when the answer is the same. Nothing depends on the file itself, all on what it says.
rule manifest:
    log:
        "logs/manifest.log",
    benchmark:
        "benchmarks/manifest.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=400,
        disk_mb=1,
        runtime=30,
    """Search the source for the items that the regions need."""
    params:
        source=config["source"],
        quarter=config["quarter"],
        regions=config["regions"],
        manifest=MANIFEST,
        asked=time.time(),
    script:
        "../scripts/search_items.py"
