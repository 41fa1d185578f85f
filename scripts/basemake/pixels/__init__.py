"""Pixels: rasters, recipes, codecs, warping, web tiles and the archives that hold them."""
