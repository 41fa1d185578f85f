"""Bands: reads what the manifest says of them; makes results/bands/{tile}/{band}.tif."""


# Network-bound: it holds no core, but one of the `connections` that the profile allows. Tile by
# tile, so that the first can be enhanced while others are on their way, and few bands wait on disk.
rule fetch_band:
    """Fetch one band of a tile, verified."""
    output:
        "results/bands/{tile}/{band}.tif"
        if config["keep_bands"]
        else temp("results/bands/{tile}/{band}.tif"),
    log:
        "logs/bands/{tile}/{band}.log",
    benchmark:
        "benchmarks/bands/{tile}/{band}.tsv"
    priority: lambda wildcards: -plan().tiles.index.get_loc(wildcards.tile)
    conda:
        "../envs/conda.yaml"
    threads: 0
    resources:
        connections=1,
        mem_mb=200,
        disk_mb=lambda wildcards: (band(wildcards)["size"] or 250_000_000) // 1_000_000 + 1,
        runtime=60,
    params:
        # Where a band lies is nothing to what it is, if a checksum says that, or the digest of a
        # file of this machine: Snakemake does not compare functions of `output`. Nor does the code
        # of a download: the bytes are verified.
        href=lambda wildcards, output: band(wildcards)["href"],
        place=lambda wildcards: band(wildcards).get("digest")
        or (None if band(wildcards)["checksum"] else band(wildcards)["href"]),
        size=lambda wildcards: band(wildcards)["size"],
        checksum=lambda wildcards: band(wildcards)["checksum"],
        updated=lambda wildcards: band(wildcards)["updated"],
    script:
        "../scripts/fetch_band.py"
