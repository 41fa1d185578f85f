"""Mosaic: reads enhanced tiles; makes results/mosaic/{region}.vrt and one VRT per UTM zone."""


rule build_zone_vrt:
    """Build the VRT of one UTM zone of a region, and its view in Web Mercator."""
    input:
        lambda wildcards: enhanced_of(wildcards.region, int(wildcards.epsg)),
    output:
        zone=kept_if("keep_tiles", "results/mosaic/{region}_{epsg}.vrt"),
        mercator=kept_if("keep_tiles", "results/mosaic/{region}_{epsg}_3857.vrt"),
        records=[
            "results/records/mosaic/{region}_{epsg}.vrt.json",
            "results/records/mosaic/{region}_{epsg}_3857.vrt.json",
        ],
    log:
        "logs/mosaic/{region}_{epsg}.log",
    benchmark:
        "benchmarks/mosaic/{region}_{epsg}.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(300, attempt),
        disk_mb=10,
        runtime=20,
    params:
        headers=True,  # are all that it reads of tiles
        code=code("build_zone_vrt.py"),
        settings=lambda wildcards: {
            "grid": mercator_grid(
                layout().tiles_of(wildcards.region, int(wildcards.epsg)),
                layout().zooms[wildcards.region].max,
                PYRAMID["tile_size"],
            ),
            "resampling": PYRAMID["resampling"],
        },
        container={"attribution": ATTRIBUTION},
    script:
        "../scripts/build_zone_vrt.py"


rule build_vrt:
    """Build the VRT over all zones of a region."""
    input:
        lambda wildcards: zone_vrts(wildcards.region, "_3857"),
    output:
        mosaic=kept_if("keep_tiles", "results/mosaic/{region}.vrt"),
        record="results/records/mosaic/{region}.vrt.json",
    log:
        "logs/mosaic/{region}.log",
    benchmark:
        "benchmarks/mosaic/{region}.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(300, attempt),
        disk_mb=1,
        runtime=10,
    params:
        headers=True,
        # Read by way of its inputs.
        also=lambda wildcards: zone_vrts(wildcards.region) + enhanced_of(wildcards.region),
        code=code("build_vrt.py"),
        container={"attribution": ATTRIBUTION},
    script:
        "../scripts/build_vrt.py"
