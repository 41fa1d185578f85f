"""Pyramid: reads enhanced tiles; makes results/pyramid/{region}.pmtiles from metatiles."""


rule render_metatile:
    """Render a metatile and the web tiles inside it, from max_zoom to metatile_zoom."""
    input:
        tiles=lambda wildcards: enhanced(
            layout().metatiles[wildcards.region][wildcards.metatile].tiles
        ),
    output:
        # The old metatile stays until the job ends: if its tiles prove to be the same, it is kept.
        archive=update("results/metatiles/{region}/{metatile}.pmtiles"),
        root=update("results/metatiles/{region}/{metatile}.tif"),
        records=[
            update("results/records/metatiles/{region}/{metatile}.pmtiles.json"),
            update("results/records/metatiles/{region}/{metatile}.tif.json"),
        ],
    log:
        "logs/metatiles/{region}/{metatile}.log",
    benchmark:
        "benchmarks/metatiles/{region}/{metatile}.tsv"
    priority: 20
    conda:
        "../envs/conda.yaml"
    threads: THREADS["render"]
    resources:
        mem_mb=lambda wildcards, attempt: memory(272 + config["gdal_cache_mb"], attempt),
        disk_mb=100,
        runtime=30,
    params:
        code=code("render_metatile.py"),
        settings=lambda wildcards: {
            **RENDERING,
            **edges(wildcards),
            "overlap": overlap(wildcards),
            "tile_size": PYRAMID["tile_size"],
            "min_zoom": max(
                layout().zooms[wildcards.region].min, layout().zooms[wildcards.region].metatile
            ),
            "max_zoom": layout().zooms[wildcards.region].max,
            "resampling": PYRAMID["resampling"],
        },
    script:
        "../scripts/render_metatile.py"


rule render_overview:
    """Render the web tiles of lower zooms than the metatiles, from the metatiles' roots."""
    input:
        roots=lambda wildcards: metatiles(wildcards.region, ".tif"),
    output:
        archive="results/metatiles/{region}/overview.pmtiles",
        record="results/records/metatiles/{region}/overview.pmtiles.json",
    log:
        "logs/metatiles/{region}/overview.log",
    benchmark:
        "benchmarks/metatiles/{region}/overview.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(300, attempt),
        disk_mb=100,
        runtime=30,
    params:
        code=code("render_overview.py"),
        settings=lambda wildcards: {
            **RENDERING,
            "min_zoom": layout().zooms[wildcards.region].min,
        },
    script:
        "../scripts/render_overview.py"


rule pack_pyramid:
    """Pack all web tiles of a region into one archive."""
    input:
        "results/metatiles/{region}/overview.pmtiles",
        lambda wildcards: metatiles(wildcards.region, ".pmtiles"),
    output:
        archive="results/pyramid/{region}.pmtiles",
        record="results/records/pyramid/{region}.pmtiles.json",
    log:
        "logs/pyramid/{region}.log",
    benchmark:
        "benchmarks/pyramid/{region}.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(400, attempt),
        disk_mb=lambda wildcards, input: int(input.size_mb) + 1,
        runtime=60,
    params:
        code=code("pack_pyramid.py"),
        settings=lambda wildcards: {
            "extent": layout().extent(wildcards.region).wkt,
            "image_format": PYRAMID["format"],
            "description": f"{SOURCE.title}, {config['quarter']}",
            "recipe": RECIPE,
            "attribution": ATTRIBUTION,
            "tile_size": PYRAMID["tile_size"],
        },
    script:
        "../scripts/pack_pyramid.py"


rule export_mbtiles:
    """Write a pyramid as MBTiles, for clients that read no PMTiles."""
    input:
        archive="results/pyramid/{region}.pmtiles",
    output:
        archive="results/pyramid/{region}.mbtiles",
        record="results/records/pyramid/{region}.mbtiles.json",
    log:
        "logs/pyramid/{region}.mbtiles.log",
    benchmark:
        "benchmarks/pyramid/{region}.mbtiles.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(300, attempt),
        disk_mb=lambda wildcards, input: int(input.size_mb) + 1,
        runtime=60,
    params:
        code=code("export_mbtiles.py"),
    script:
        "../scripts/export_mbtiles.py"


rule export_folder:
    """Write a pyramid as z/x/y files, for servers that only serve files."""
    input:
        archive="results/pyramid/{region}.pmtiles",
    output:
        folder=directory("results/pyramid/{region}"),
        record="results/records/pyramid/{region}.json",
    log:
        "logs/pyramid/{region}.folder.log",
    benchmark:
        "benchmarks/pyramid/{region}.folder.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(300, attempt),
        disk_mb=lambda wildcards, input: 2 * int(input.size_mb) + 1,
        runtime=60,
    params:
        code=code("export_folder.py"),
        settings={"image_format": PYRAMID["format"]},
    script:
        "../scripts/export_folder.py"


rule export_cog:
    """Write a region's map as a cloud-optimized GeoTIFF, for GIS programs."""
    input:
        lambda wildcards: enhanced_of(wildcards.region),
    output:
        image="results/pyramid/{region}.tif",
        record="results/records/pyramid/{region}.tif.json",
    log:
        "logs/pyramid/{region}.cog.log",
    benchmark:
        "benchmarks/pyramid/{region}.cog.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(400 + config["gdal_cache_mb"], attempt),
        disk_mb=lambda wildcards, input: 3 * int(input.size_mb) + 1,
        runtime=240,
    params:
        # Read by way of the mosaic.
        also=lambda wildcards: zone_vrts(wildcards.region) + zone_vrts(wildcards.region, "_3857"),
        code=code("export_cog.py"),
        settings=lambda wildcards: {
            "rendering": {
                "image_format": PYRAMID["format"],
                "quality": RENDERING["quality"],
                "tile_size": PYRAMID["tile_size"],
                "min_zoom": layout().zooms[wildcards.region].max,
                "max_zoom": layout().zooms[wildcards.region].max,
                "resampling": PYRAMID["resampling"],
                "overlap": PYRAMID["overlap"],
            },
            "metatiles": {
                name: [metatile.tiles, outline_text(metatile.outline)]
                for name, metatile in layout().metatiles[wildcards.region].items()
            },
            "bounds": layout().bounds(wildcards.region),
        },
        container={"attribution": ATTRIBUTION},
    script:
        "../scripts/export_cog.py"
