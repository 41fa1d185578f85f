"""Warping: coordinates against PROJ's own, colours against GDAL's warper in float64."""

import numpy as np
import pytest
from osgeo import gdal, osr

from basemake.pixels.dn import DnReading
from basemake.pixels.light import halve, to_colours, to_light
from basemake.pixels.recipe import CompiledRecipe
from basemake.pixels.warp import Warper
from basemake.pixels.webtiles import WebTile, overlapping, to_mercator

L2A = [
    {"step": "highlight_compression", "maximum": 3.0, "midpoint": 0.13},
    {"step": "offset_gamma", "gamma": 1.8, "offset": 0.01},
    {"step": "saturation", "factor": 1.2},
    {"step": "srgb"},
]


def crs(epsg: int) -> osr.SpatialReference:
    srs = osr.SpatialReference()
    srs.ImportFromEPSG(epsg)
    srs.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return srs


def warp(path, bounds, pixels, resampling="bilinear"):
    """The whole canvas of a tile, piece by piece."""
    count = pixels // 256
    warper = Warper.of([path], bounds, count, 256, resampling)
    canvas = np.zeros((pixels, pixels, 4), np.uint8)
    for row, column in np.ndindex(count, count):
        piece = warper.draw(row, column)
        if piece is not None:
            assert warper.may_show(row, column, 1)
            canvas[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256] = piece
    return canvas


# Levels of a triangle wave of 10 pixels, with its corners at the centres of pixels: it is linear
# between them, so bilinear interpolation is exact.
WAVE = np.array([0, 50, 100, 150, 200, 250, 200, 150, 100, 50], np.uint8)


def wave(at):
    """The level at columns or rows of a tile, 0 at the first pixel's centre."""
    return np.interp(at, np.arange(11), [*WAVE, WAVE[0]], period=10)


@pytest.mark.parametrize("latitude", [0.5, 45.0, 70.0, 83.0])
@pytest.mark.parametrize("zoom", [0, 3, 6, 9, 11])
def test_coordinates_are_right_to_a_twentieth_of_a_pixel(write_geotiff, tmp_path, latitude, zoom):
    """In pieces whose web pixels are as large as the tile's, near the edge of UTM zone 33."""
    pixels = 4096
    x, y = to_mercator(np.array([[17.6, latitude]]))[0]
    metatile = next(t for t in overlapping(_box(x, y), zoom) if t.bounds[0] <= x < t.bounds[2])
    west, _, east, north = metatile.bounds
    pixel = (east - west) / pixels
    side = min(700, int(1e6 / pixel))  # no farther than a UTM zone's projection is used
    to_tile = osr.CoordinateTransformation(crs(3857), crs(32633))
    middle = to_tile.TransformPoint(x, y)
    corner = middle[0] - side * pixel / 2, middle[1] + side * pixel / 2
    rgba = np.full((4, side, side), 255, np.uint8)
    rgba[0], rgba[1] = (WAVE[axis % 10] for axis in np.indices((side, side)))
    path = write_geotiff(tmp_path / "a.tif", rgba, corner, pixel, options=("ALPHA=YES",))
    canvas = warp(path, metatile.bounds, pixels)
    i, j = np.random.default_rng(1).choice(np.argwhere(canvas[..., 3]), 2000).T
    points = np.column_stack([west + (j + 0.5) * pixel, north - (i + 0.5) * pixel])
    exact = np.array(to_tile.TransformPoints(points.tolist()))
    columns = (exact[:, 0] - corner[0]) / pixel - 0.5
    rows = (corner[1] - exact[:, 1]) / pixel - 0.5
    inner = (np.minimum(columns, rows) > 1) & (np.maximum(columns, rows) < side - 2)
    assert inner.sum() > 500
    error = np.abs(canvas[i, j, :2] - np.column_stack([wave(rows), wave(columns)]))[inner]
    assert error.max() <= 0.05 * 50 + 0.5  # 50 levels a pixel, and rounding


def _box(x, y):
    import shapely

    return shapely.Point(x, y).buffer(1)


def test_real_texture_is_as_gdals_exact_warper_shows_it(real_data, write_geotiff, tmp_path):
    folder = real_data / "s2_10m/icor_belgium_sr_32631"
    bands = [gdal.Open(str(folder / f"{band}.tif")) for band in ("B04", "B03", "B02")]
    dn = np.stack([band.ReadAsArray() for band in bands])
    rgba = CompiledRecipe(L2A, DnReading(0.0001, 0.0, None), np.dtype("uint16"))(dn)
    left, pixel, _, top, _, _ = bands[0].GetGeoTransform()
    path = write_geotiff(
        tmp_path / "t.tif", np.moveaxis(rgba, -1, 0), (left, top), pixel, 32631, ("ALPHA=YES",)
    )
    # A metatile of 1024 pixels at zoom 13 in the middle of it: pixels of 12 m from pixels of 10 m.
    centre = osr.CoordinateTransformation(crs(32631), crs(3857)).TransformPoint(
        left + 256 * pixel, top - 512 * pixel
    )
    metatile = overlapping(_box(*centre[:2]), 11)[0]
    canvas = warp(path, metatile.bounds, 1024)
    exact = gdal.GetDriverByName("MEM").Create("", 1024, 1024, 3, gdal.GDT_Float64)
    west, south, east, north = metatile.bounds
    exact.SetGeoTransform((west, (east - west) / 1024, 0, north, 0, (south - north) / 1024))
    exact.SetSpatialRef(crs(3857))
    colours = gdal.Translate(
        "", str(path), format="MEM", bandList=[1, 2, 3], outputType=gdal.GDT_Float64
    )
    gdal.Warp(exact, colours, resampleAlg="bilinear", errorThreshold=0)
    shown = canvas[..., 3] == 255
    assert shown.sum() > 50_000
    inner = shown.copy()
    for shift in ((2, 0), (-2, 0), (0, 2), (0, -2)):  # at edges both lack neighbours
        inner &= np.roll(shown, shift, (0, 1))
    error = (canvas[..., :3] - np.moveaxis(exact.ReadAsArray(), 0, -1))[inner]
    # Rounding alone is 59 dB; half a pixel's shift would be below 35.
    assert 10 * np.log10(255**2 / (error**2).mean()) > 47


def test_a_coarse_map_shows_means_and_does_not_alias(write_geotiff, tmp_path):
    """Noise of single pixels, shown ten times as coarse, is nearly its mean."""
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (4, 2048, 2048)).astype(np.uint8)
    noise[3] = 255
    path = write_geotiff(tmp_path / "t.tif", noise, options=("ALPHA=YES", "TILED=YES"))
    dataset = gdal.Open(str(path), gdal.GA_Update)
    dataset.BuildOverviews("AVERAGE", [2, 4, 8])
    del dataset
    metatile = WebTile(9, 277, 184)
    canvas = warp(path, metatile.bounds, 512)
    shown = canvas[canvas[..., 3] == 255][:, :3]
    assert len(shown) > 5_000
    assert shown.std() < 74 / 6  # 74 is that of the noise, 74 / 11 that of exact means


def around(x, y, side):
    """The bounds of a square in Mercator metres about a point in EPSG:32633."""
    x, y, _ = osr.CoordinateTransformation(crs(32633), crs(3857)).TransformPoint(x, y)
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_pieces_inside_a_tile_have_its_colour_up_to_their_edges(
    write_geotiff, tmp_path, resampling, scale
):
    """What smoothing (at scales above 1) and interpolation need beyond a piece is read, too."""
    colour = np.array([200, 100, 50, 255], np.uint8)
    flat = np.tile(colour[:, np.newaxis, np.newaxis], (1, 900, 900))
    path = write_geotiff(tmp_path / "t.tif", flat, pixel=100.0, options=("ALPHA=YES",))
    # At 45 degrees north a pixel of 100 m is 141 m in Mercator.
    canvas = warp(path, around(545_000, 4_955_000, 512 * 141 * scale), 512, resampling)
    assert (canvas == colour).all()


def test_holes_in_a_reduced_image_have_edges_of_its_colour(write_geotiff, tmp_path):
    """Reduced images are partly transparent beside missing pixels, which must not brighten them."""
    holed = np.tile(np.array([200, 100, 50, 255], np.uint8)[:, np.newaxis, np.newaxis], (900, 900))
    holed[:, np.random.default_rng(4).random((900, 900)) < 0.1] = 0
    path = write_geotiff(tmp_path / "t.tif", holed, pixel=100.0, options=("ALPHA=YES",))
    dataset = gdal.Open(str(path), gdal.GA_Update)
    dataset.BuildOverviews("AVERAGE", [2])
    rgba = np.ascontiguousarray(np.moveaxis(holed, 0, -1))
    reduced = to_colours(halve(to_light(rgba)))  # as in an enhanced tile
    for number in range(4):
        dataset.GetRasterBand(number + 1).GetOverview(0).WriteArray(reduced[..., number])
    del dataset
    assert ((reduced[..., 3] > 0) & (reduced[..., 3] < 255)).mean() > 0.2
    canvas = warp(path, around(545_000, 4_955_000, 256 * 141 * 2.5), 256)
    shown = canvas[canvas[..., 3] == 255]
    assert len(shown) > 0.9 * 256 * 256
    assert np.abs(shown[:, :3].astype(int) - [200, 100, 50]).max() <= 1


def test_stripes_of_a_tile_without_reduced_images_are_weakened_where_they_would_alias(
    write_geotiff, tmp_path
):
    """Stripes of one pixel, shown four times as coarse, keep a third of their light's contrast."""
    stripes = np.full((4, 400, 400), 255, np.uint8)
    stripes[:3, ::2] = 0
    path = write_geotiff(tmp_path / "t.tif", stripes, options=("ALPHA=YES",))
    canvas = warp(path, around(502_000, 4_998_000, 256 * 4 * 14.1), 256)
    shown = canvas[canvas[..., 3] == 255][:, 0].astype(int)
    assert len(shown) > 5000
    light = ((shown / 255 + 0.055) / 1.055) ** 2.4
    assert np.abs(light - 0.5).max() <= 1 / 6 + 0.01


def test_a_map_of_the_world_has_the_tile_once_and_in_its_place(write_geotiff, tmp_path):
    """Half the world has no coordinates in a UTM zone: none of it may be taken for the tile."""
    solid = np.full((4, 100, 100), 255, np.uint8)
    path = write_geotiff(tmp_path / "t.tif", solid, (400_000.0, 5_100_000.0), 2000.0)
    canvas = warp(path, WebTile(0, 0, 0).bounds, 1024)
    row, column = np.nonzero(canvas[..., 3])
    assert len(row) > 10
    lon = (column + 0.5) / 1024 * 360 - 180
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (row + 0.5) / 1024))))
    # The tile reaches from 13.7 to 16.4 degrees east and from 44.2 to 46.1 north.
    assert (lon.min(), lon.max()) == pytest.approx((13.8, 16.2), abs=0.4)
    assert (lat.min(), lat.max()) == pytest.approx((44.3, 45.9), abs=0.4)
