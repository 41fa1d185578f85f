"""Bands: reads what the manifest says of them; makes results/bands/{tile}/{band}.tif."""


# Network-bound: it holds no core, but one of the `connections` that the profile allows. Tile by
# tile, so that the first can be enhanced while others are on their way, and few bands wait on disk.
rule fetch_band:
    """Fetch one band of a tile, verified."""
    output:
        band=(
            "results/bands/{tile}/{band}.tif"
            if config["keep_bands"]
            else temp("results/bands/{tile}/{band}.tif")
        ),
        record="results/records/bands/{tile}/{band}.tif.json",
    log:
        "logs/bands/{tile}/{band}.log",
    benchmark:
        "benchmarks/bands/{tile}/{band}.tsv"
    priority: lambda wildcards: -layout().tiles.index.get_loc(wildcards.tile)
    conda:
        "../envs/conda.yaml"
    threads: 0
    resources:
        connections=1,
        mem_mb=200,
        disk_mb=lambda wildcards: (band(wildcards)["size"] or 250_000_000) // 1_000_000 + 1,
        runtime=60,
    params:
        href=lambda wildcards: band(wildcards)["href"],
        # The code of a download does not count: the bytes are verified.
        settings=lambda wildcards: band_identity(band(wildcards), tile(wildcards.tile)["updated"]),
    script:
        "../scripts/fetch_band.py"
