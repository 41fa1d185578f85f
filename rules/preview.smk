"""Preview: reads an archive; makes results/preview/{region}.html, the map in a web page."""


rule build_preview:
    """Build the page that shows a region's map."""
    input:
        archive="results/pyramid/{region}.pmtiles",
    output:
        page="results/preview/{region}.html",
        record="results/records/preview/{region}.html.json",
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
        code=code("build_preview.py"),
        settings=lambda wildcards: {
            "footprints": footprints(wildcards.region),
            "outline": mapping(layout().regions[wildcards.region]),
            "title": f"{wildcards.region}, {config['quarter']}",
            "ground": RENDERING["background"],
        },
    script:
        "../scripts/build_preview.py"
