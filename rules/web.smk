"""Web: reads an archive; makes results/web/{region}/, what opens the map in other programs."""


rule build_web:
    """Write a TileJSON, a MapLibre style, pages of OpenLayers and Leaflet, and a QGIS layer."""
    input:
        archive="results/pyramid/{region}.pmtiles",
    output:
        tilejson="results/web/{region}/tilejson.json",
        style="results/web/{region}/style.json",
        openlayers="results/web/{region}/openlayers.html",
        leaflet="results/web/{region}/leaflet.html",
        qgis="results/web/{region}/{region}.qlr",
        records=[
            "results/records/web/{region}/tilejson.json.json",
            "results/records/web/{region}/style.json.json",
            "results/records/web/{region}/openlayers.html.json",
            "results/records/web/{region}/leaflet.html.json",
            "results/records/web/{region}/{region}.qlr.json",
        ],
    log:
        "logs/web/{region}.log",
    benchmark:
        "benchmarks/web/{region}.tsv"
    conda:
        "../envs/conda.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: memory(300, attempt),
        disk_mb=10,
        runtime=10,
    params:
        code=code("build_web.py"),
        settings=lambda wildcards: {
            "title": f"{wildcards.region}, {config['quarter']}",
            "ground": RENDERING["background"],
            "url": URL,
            "suffix": SUFFIX if "folder" in PYRAMID["outputs"] else None,
            "for_qgis": best_for_qgis(
                wildcards.region,
                PYRAMID["outputs"],
                SUFFIX,
                tiles_kept=config["keep_tiles"],
                remote=URL is not None,
            ),
        },
    script:
        "../scripts/build_web.py"
