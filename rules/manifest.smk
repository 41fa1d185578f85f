"""Manifest: reads config, regions and source; makes results/manifest.geojson."""


localrules:
    manifest,


# It declares no output and, alone of all rules, no benchmark (Snakemake would take that for one): so
# it searches whenever it is asked, and the file stays as it is when the answer is the same. Nothing
# depends on the file itself, all on what it says.
rule manifest:
    """Search the source for the items that the regions need."""
    log:
        "logs/manifest.log",
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=400,
        disk_mb=1,
        runtime=30,
    params:
        source=config["source"],
        quarter=config["quarter"],
        regions=config["regions"],
        manifest=str(MANIFEST),
    script:
        "../scripts/search_items.py"
