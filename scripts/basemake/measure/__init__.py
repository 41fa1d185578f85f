"""Measuring codecs, and charts of figures."""
