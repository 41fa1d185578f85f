"""Tiles: reads the three bands of a tile; makes results/tiles/{tile}.tif, its enhanced tile.

The rule compare_codecs, run by name only, compares codecs on them, into results/codecs/.
"""


rule enhance_tile:
    """Make the true-colour GeoTIFF of one tile by the recipe."""
    input:
        red=f"results/bands/{{tile}}/{SOURCE.bands['red']}.tif",
        green=f"results/bands/{{tile}}/{SOURCE.bands['green']}.tif",
        blue=f"results/bands/{{tile}}/{SOURCE.bands['blue']}.tif",
        # Of the first item its mask, and all of the items that fill.
        fill=expand("results/bands/{{tile}}/{key}.tif", key=sum(KEYS, [])[len(BANDS) :]),
    output:
        **provenance(),
        # The old tile stays until the job ends: if only its credit changed, its pixels are kept.
        tile=kept_if("keep_tiles", update("results/tiles/{tile}.tif")),
        record=update("results/records/tiles/{tile}.tif.json"),
    log:
        "logs/tiles/{tile}.log",
    benchmark:
        "benchmarks/tiles/{tile}.tsv"
    # Before more downloads, so that few bands are on disk.
    priority: 10
    conda:
        "../envs/conda.yaml"
    threads: THREADS["enhance"]
    resources:
        mem_mb=lambda wildcards, threads, attempt: memory(
            120 + 64 * threads + config["gdal_cache_mb"] + 10 * FILL, attempt
        ),
        disk_mb=500,  # its blocks twice, or once with the light of its reduced images
        runtime=20,
    params:
        code=code("enhance_tile.py"),
        settings=lambda wildcards: {
            "bands": SOURCE.bands,
            "epsg": tile(wildcards.tile).epsg,
            "recipe": STEPS,
            "dn": dn(tile(wildcards.tile)),
            **filling(wildcards),
        },
        container=lambda wildcards: {
            "codec": config["tile_codec"],
            "item": tile(wildcards.tile).item,
            **({"items": items_of(wildcards.tile)} if FILL else {}),
            "quarter": config["quarter"],
            "attribution": ATTRIBUTION,
        },
    script:
        "../scripts/enhance_tile.py"


# It declares no output, so that it measures whenever it is asked for.
rule compare_codecs:
    """Compare codecs on a few enhanced tiles: size, speed, and whether they are lossless."""
    input:
        lambda wildcards: tiles_to_compare(),
    log:
        "logs/codecs.log",
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(400, attempt),
        disk_mb=1,
        runtime=10,
    params:
        folder="results/codecs",
        seconds=60,
    script:
        "../scripts/compare_codecs.py"
