"""Preview: reads an archive; makes results/preview/{region}.html, the map in a web page."""


rule build_preview:
    """Build the page that shows a region's map."""
    input:
        archive="results/pyramid/{region}.pmtiles",
    output:
        page="results/preview/{region}.html",
    log:
        "logs/preview/{region}.log",
    benchmark:
        "benchmarks/preview/{region}.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=300,
        disk_mb=10,
        runtime=10,
    params:
        code=code("build_preview.py"),
        footprints=lambda wildcards: footprints(wildcards.region),
        outline=lambda wildcards: mapping(plan().regions[wildcards.region]),
        title=lambda wildcards: f"{wildcards.region}, {config['quarter']}",
    script:
        "../scripts/build_preview.py"
