"""What two or more stages of basemake share, and its pure maths. Never says `snakemake`."""

__version__ = "0.2.0"
