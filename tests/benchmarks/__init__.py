"""Benchmarks of basemake beside its peers: `make bench`."""
