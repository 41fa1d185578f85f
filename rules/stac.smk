"""STAC: reads the records of tiles and maps; makes results/stac/, a catalog that describes them."""


# One job for all of it: it takes 3 ms of CPU a tile, while a job of each would take 30.
rule build_stac:
    """Describe the enhanced tiles and the maps as a static STAC catalog."""
    input:
        lambda wildcards: described(),
    output:
        folder=directory("results/stac"),
        record="results/records/stac.json",
    log:
        "logs/stac.log",
    benchmark:
        "benchmarks/stac.tsv"
    localrule: True  # as the page that lists all maps
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, input, attempt: memory(300 + len(input) // 50, attempt),
        disk_mb=lambda wildcards, input: 1 + len(input) // 100,
        runtime=30,
    params:
        checksums=True,  # of its inputs, which it states
        code=code("build_stac.py"),
        settings=lambda wildcards: {
            "description": f"{SOURCE.title}, {config['quarter']}",
            "attribution": ATTRIBUTION,
            "quarter": config["quarter"],
            "recipe": STEPS,
            "software": __version__,
            "items": {name: footprint(name) for name in layout().tiles},
            "extent": {
                region: {
                    "geometry": mapping(layout().extent(region)),
                    "tiles": [tile.name for tile in layout().tiles_of(region)],
                }
                for region in layout().regions
            },
        },
    script:
        "../scripts/build_stac.py"
