"""Code that two or more stages share. Only build/engine.py imports Snakemake."""

__version__ = "0.2.0"
