"""Coordinate reference systems."""

from osgeo import osr


def crs(epsg: int) -> osr.SpatialReference:
    """Return a CRS by its EPSG code, with coordinates in the order x, y."""
    found = osr.SpatialReference()
    found.ImportFromEPSG(epsg)
    found.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return found
