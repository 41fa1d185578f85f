"""Estimates of what a run takes (bytes, seconds, memory, cost), as numbers, text and a map."""
