"""Manifest: reads config, regions and source; makes results/manifest.geojson."""


localrules:
    manifest,


# It declares no output, so that it searches whenever it is asked for, and no benchmark, which
# Snakemake would treat as an output. No rule has the manifest as input: jobs depend on its content,
# by their params, so a search with the same answer makes nothing stale.
rule manifest:
    """Search the source for the items that the regions need."""
    log:
        "logs/manifest.log",
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(400, attempt),
        disk_mb=1,
        runtime=30,
    params:
        source=config["source"],
        quarter=config["quarter"],
        fill=config["fill"],
        regions=config["regions"],
        manifest=str(MANIFEST),
    script:
        "../scripts/search_items.py"
