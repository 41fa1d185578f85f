"""Bands: reads their entries in the manifest; makes results/bands/{tile}/{band}.tif."""


# A download is bound by the network, so it holds some of the run's `connections` and no core. The
# priority fetches tile by tile, so that tiles are enhanced early and few bands wait on disk.
rule fetch_bands:
    """Fetch what the maps need of the bands of a tile, and verify it."""
    output:
        # The old bands stay until the job ends: what is still needed of them is not fetched again.
        bands=[
            kept_if("keep_bands", update(path))
            for path in expand("results/bands/{{tile}}/{key}.tif", key=sum(KEYS, []))
        ],
        records=update(expand("results/records/bands/{{tile}}/{key}.tif.json", key=sum(KEYS, []))),
    log:
        "logs/bands/{tile}.log",
    benchmark:
        "benchmarks/bands/{tile}.tsv"
    priority: lambda wildcards: -places()[tile(wildcards.tile).name]
    conda:
        "../envs/conda.yaml"
    threads: 0 if HERE else 1  # as clusters have no jobs without a core
    resources:
        connections=lambda wildcards: connections_of_a_tile(
            BOUNDS.connections, len(layout().tiles), len(BANDS)
        ),
        mem_mb=lambda wildcards, attempt: memory(260 if FILL else 200, attempt),
        disk_mb=lambda wildcards: (
            sum(band.size or 250_000_000 for band, _ in bands(wildcards).values()) // 1_000_000 + 1
        ),
        runtime=60,
    params:
        hrefs=lambda wildcards: {key: band.href for key, (band, _) in bands(wildcards).items()},
        asked=lambda wildcards: asked_as_json(wildcards),
        ranks=KEYS,
        mask=MASK,
        epsg=lambda wildcards: tile(wildcards.tile).epsg,
        # No digest of the code: bands are verified, so a new version need not fetch them again.
        settings=lambda wildcards: settings_of_bands(wildcards),
    script:
        "../scripts/fetch_bands.py"
