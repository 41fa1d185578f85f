"""Bands: reads their entries in the manifest; makes results/bands/{tile}/{band}.tif."""


# A download is bound by the network, so it holds one of the run's `connections` and no core. The
# priority fetches tile by tile, so that tiles are enhanced early and few bands wait on disk.
rule fetch_band:
    """Fetch one band of a tile and verify it."""
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
    priority: lambda wildcards: -places()[wildcards.tile]
    conda:
        "../envs/conda.yaml"
    threads: 0
    resources:
        connections=1,
        mem_mb=200,
        disk_mb=lambda wildcards: (band(wildcards).size or 250_000_000) // 1_000_000 + 1,
        runtime=60,
    params:
        href=lambda wildcards: band(wildcards).href,
        # No digest of the code: bands are verified, so a new version need not fetch them again.
        settings=lambda wildcards: band(wildcards).identity(tile(wildcards.tile).updated),
    script:
        "../scripts/fetch_band.py"
