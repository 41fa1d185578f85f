"""Bands fetched to this machine: whole or in part, and checked (see scripts/fetch_bands.py)."""
