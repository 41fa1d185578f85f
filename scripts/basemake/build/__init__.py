"""What is built: config, regions, manifest, layout, records, and Snakemake's graph of jobs."""
