"""Preview: reads archives; makes results/preview/{region}.html, the map in a web page.

And {region}.webp, a thumbnail of it, and index.html, which lists the maps.
"""


rule build_preview:
    """Build the page that shows a region's map, and the map's thumbnail."""
    input:
        archive="results/pyramid/{region}.pmtiles",
    output:
        page="results/preview/{region}.html",
        thumbnail="results/preview/{region}.webp",
        records=[
            "results/records/preview/{region}.html.json",
            "results/records/preview/{region}.webp.json",
        ],
    log:
        "logs/preview/{region}.log",
    benchmark:
        "benchmarks/preview/{region}.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(300, attempt),
        disk_mb=10,
        runtime=10,
    params:
        code=code("build_preview.py", "map.html", "map.css", "map.js"),
        settings=lambda wildcards: told(wildcards.region),
    script:
        "../scripts/build_preview.py"


rule build_index:
    """Build the page that lists all maps."""
    input:
        pages=expand("results/preview/{region}.html", region=sorted(REGIONS)),
        thumbnails=expand("results/preview/{region}.webp", region=sorted(REGIONS)),
    output:
        index="results/preview/index.html",
        record="results/records/preview/index.html.json",
    log:
        "logs/preview.log",
    benchmark:
        "benchmarks/preview.tsv"
    localrule: True  # on a cluster to wait for a job of its own would take a hundred times as long
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(200, attempt),
        disk_mb=1,
        runtime=10,
    params:
        code=code("build_index.py", "index.html"),
    script:
        "../scripts/build_index.py"
