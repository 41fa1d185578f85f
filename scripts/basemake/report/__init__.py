"""The report of a build: one page that `snakemake --report` writes."""
