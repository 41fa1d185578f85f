"""Code that two or more stages share. Only the package `engine` imports Snakemake."""

__version__ = "0.2.0"
