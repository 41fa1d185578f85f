"""Mosaics: what shows where tiles overlap, files that move, and the view in Web Mercator."""

import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from osgeo import gdal

from basemake.errors import TileError
from basemake.pixels.vrt import build_mosaic, build_warped

SIZE = 1300  # two overviews, the last one smaller than a block
OVERLAP = 60
STEP = SIZE - OVERLAP
ORIGIN = 500_000.0, 5_000_000.0
PIXEL = 10.0


def colours(left: int, top: int, hue: int) -> NDArray[np.uint8]:
    """A smooth picture of the pixels from (left, top) on; `hue` tells tiles apart in blue."""
    y, x = np.mgrid[top : top + SIZE, left : left + SIZE]
    rgba = np.full((SIZE, SIZE, 4), 255, np.uint8)
    rgba[..., 0] = 140 + 60 * np.sin(x / 150)
    rgba[..., 1] = 140 + 60 * np.sin(y / 170)
    rgba[..., 2] = hue
    return rgba


@pytest.fixture(scope="module")
def pictures() -> dict[str, NDArray[np.uint8]]:
    """Tiles west and east, with holes in their overlap, and south, which abuts on west."""
    west, east, south = colours(0, 0, 90), colours(STEP, 0, 200), colours(0, SIZE, 150)
    for picture, hole in [
        (west, np.s_[1000:1001, 1270:1271]),  # one bad pixel; the other tile is whole here
        (west, np.s_[100:200, 1250:1290]),
        (east, np.s_[150:300, 5:40]),  # and over it, partly: nothing shows in both
        (east, np.s_[900:901, 20:21]),
    ]:
        picture[hole] = 0
    return {"west": west, "east": east, "south": south}


PLACES = {"west": (0, 0), "east": (STEP, 0), "south": (0, SIZE)}


def pasted(pictures: dict[str, NDArray], order: list[str]) -> NDArray[np.uint8]:
    """The later over the earlier where it is valid."""
    right = max(PLACES[name][0] for name in order) + SIZE
    bottom = max(PLACES[name][1] for name in order) + SIZE
    canvas = np.zeros((bottom, right, 4), np.uint8)
    for name in order:
        left, top = PLACES[name]
        window = canvas[top : top + SIZE, left : left + SIZE]
        valid = pictures[name][..., 3] > 0
        window[valid] = pictures[name][valid]
    return canvas


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, write_tile, pictures) -> Path:
    """A folder with the tiles, which tests copy."""
    folder = tmp_path_factory.mktemp("results")
    for name, (left, top) in PLACES.items():
        origin = ORIGIN[0] + left * PIXEL, ORIGIN[1] - top * PIXEL
        write_tile(folder / "tiles" / f"{name}.tif", pictures[name], origin=origin, pixel=PIXEL)
    return folder


@pytest.fixture
def results(built: Path, tmp_path: Path) -> Path:
    """Tiles in a folder whose name XML has to escape, and an empty folder for mosaics."""
    folder = tmp_path / "a & b's <é>"
    shutil.copytree(built, folder)
    (folder / "mosaic").mkdir()
    return folder


def tiles(results: Path, order: list[str]) -> list[Path]:
    return [results / "tiles" / f"{name}.tif" for name in order]


def read(path: Path, scale: int = 1) -> NDArray[np.uint8]:
    """The pixels (height, width, 4) of a raster at 1/scale of its size."""
    dataset = gdal.Open(str(path))
    size = {"buf_xsize": dataset.RasterXSize // scale, "buf_ysize": dataset.RasterYSize // scale}
    return np.moveaxis(dataset.ReadAsArray(**size), 0, -1)


@pytest.mark.parametrize("order", [["west", "east"], ["east", "west"]], ids=["we", "ew"])
def test_the_later_tile_shows_where_it_is_valid(results: Path, pictures, order) -> None:
    mosaic = results / "mosaic" / "demo.vrt"
    build_mosaic(tiles(results, order), mosaic)
    assert (read(mosaic) == pasted(pictures, order)).all()
    assert gdal.Open(str(mosaic)).GetGeoTransform() == (ORIGIN[0], 10, 0, ORIGIN[1], 0, -10)


def build_both(results: Path, grid: tuple[list[float], float]) -> tuple[Path, Path]:
    """The mosaic of all tiles, and its view in Web Mercator."""
    zone, view = results / "mosaic" / "demo_32633.vrt", results / "mosaic" / "demo_32633_3857.vrt"
    build_mosaic(tiles(results, ["west", "east", "south"]), zone)
    build_warped(zone, view, *grid, "bilinear")
    return zone, view


# Bounds around the tiles in Mercator metres, off any grid that GDAL would choose by itself.
GRID = [1_669_700.0, 5_607_700.0, 1_709_300.0, 5_646_400.0], 18.0


def test_a_mosaic_moves_with_its_tiles(results: Path, tmp_path: Path) -> None:
    before = [read(path) for path in build_both(results, GRID)]
    moved = results.rename(tmp_path / "elsewhere")
    for path, pixels in zip(sorted((moved / "mosaic").iterdir()), before, strict=True):
        assert str(tmp_path) not in path.read_text()
        assert (read(path) == pixels).all()


def test_the_bytes_depend_on_the_tiles_alone(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute = [path.read_bytes() for path in build_both(results, GRID)]
    monkeypatch.chdir(results.parent)
    relative = build_both(Path(results.name), GRID)
    assert [path.read_bytes() for path in relative] == absolute
    copy = shutil.copytree(results, tmp_path / "copy")
    assert [path.read_bytes() for path in build_both(copy, GRID)] == absolute


def odd_one(results: Path, write_tile, write_geotiff, kind: str) -> Path:
    path = results / "tiles" / "odd.tif"
    if kind == "another CRS":
        write_tile(path, colours(0, 0, 1), epsg=32634)
    elif kind == "without alpha":
        write_geotiff(path, np.full((3, 40, 40), 9, np.uint8), options=("PHOTOMETRIC=RGB",))
    elif kind == "not a raster":
        path.write_bytes(b"<html>")
    return path


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", ["missing", "another CRS", "without alpha", "not a raster"])
def test_a_tile_that_does_not_fit_is_an_error_and_no_hole(
    results: Path, write_tile, write_geotiff, kind: str, place: int
) -> None:
    sources = tiles(results, ["west", "east"])
    sources.insert(place, odd_one(results, write_tile, write_geotiff, kind))
    mosaic = results / "mosaic" / "demo.vrt"
    with pytest.raises(TileError, match=r"demo\.vrt") as caught:
        build_mosaic(sources, mosaic)
    assert "\n" not in str(caught.value)
    assert ("odd.tif" if kind in ("missing", "not a raster") else "expected") in str(caught.value)
    assert not list(mosaic.parent.iterdir())


def near_a_hole(height: int, width: int, scale: int) -> NDArray[np.bool_]:
    """Pixels at small scale that can be half a hole of the tile that shows there."""
    mask = np.zeros((height, width), bool)
    for top, bottom in ((100, 300), (900, 901), (1000, 1001)):
        rows, columns = slice(top // scale - 2, bottom // scale + 3), slice(1240 // scale - 2, None)
        mask[rows, columns] = True
    return mask


@pytest.mark.parametrize("scale", [2, 4, 5])
def test_a_mosaic_at_small_scale_has_neither_holes_nor_lines(
    results: Path, pictures, scale: int
) -> None:
    mosaic = results / "mosaic" / "demo.vrt"
    build_mosaic(tiles(results, ["west", "east", "south"]), mosaic)
    dataset = gdal.Open(str(mosaic))
    last = dataset.GetRasterBand(1).GetOverview(dataset.GetRasterBand(1).GetOverviewCount() - 1)
    assert max(last.XSize, last.YSize) <= 512
    whole = pasted(pictures, ["west", "east", "south"])
    small = read(mosaic, scale)
    height, width = (side // scale for side in whole.shape[:2])
    cells = whole[: height * scale, : width * scale].reshape(height, scale, width, scale, 4)
    full = (cells[..., 3] == 255).all(axis=(1, 3))
    assert (small[..., 3][full] > 0).all()
    assert (small[..., 3][full & ~near_a_hole(height, width, scale)] == 255).all()
    assert (small[..., 3][~(cells[..., 3] > 0).any(axis=(1, 3))] == 0).all()
    # Overviews are found to 2 pixels of the mosaic, times the steepest slope of 0.4 levels a pixel
    # (in red and green), and rounded by two means. Dark or light lines would be tens of levels off.
    means = cells[..., :2].astype(float).mean(axis=(1, 3))
    assert np.abs(small[..., :2] - means)[full].max() <= 0.4 * max(2, scale) + 1.5


def test_the_view_is_on_the_grid_that_is_asked_for(results: Path) -> None:
    _, view = build_both(results, GRID)
    dataset = gdal.Open(str(view))
    (west, south, east, north), pixel = GRID
    assert dataset.GetGeoTransform() == (west, pixel, 0, north, 0, -pixel)
    assert (dataset.RasterXSize, dataset.RasterYSize) == (
        (east - west) / pixel,
        (north - south) / pixel,
    )
    assert dataset.GetSpatialRef().GetAuthorityCode(None) == "3857"


def test_geotransforms_have_the_same_digits_with_each_gdal(results: Path) -> None:
    """Those that tell a number from all others; GDAL's own depend on its version."""
    for path in build_both(results, GRID):
        document = ElementTree.parse(path)
        numbers = gdal.Open(str(path)).GetGeoTransform()
        text = ", ".join(f"{number:.17g}" for number in numbers)
        assert document.findtext("GeoTransform") == text
    assert [element.text for element in document.iter("DstGeoTransform")] == [text]


def test_the_view_shows_the_mosaic_as_gdalwarp_would(results: Path) -> None:
    zone, view = build_both(results, GRID)
    bounds, pixel = GRID
    options = {"dstSRS": "EPSG:3857", "outputBounds": bounds, "xRes": pixel, "yRes": pixel}
    expected = gdal.Warp(
        "", str(zone), format="MEM", resampleAlg="bilinear", dstAlpha=True, **options
    ).ReadAsArray()
    found = gdal.Open(str(view)).ReadAsArray()
    assert (expected[3] == 255).mean() > 0.5
    assert (expected[3] == 0).any()
    # A VRT is warped in blocks, each with its own interpolated coordinates (to 1/8 pixel): levels
    # differ by that times the slope of 0.7 a pixel, and by chance a pixel of the rim is in or out.
    opaque = (found[3] == 255) & (expected[3] == 255)
    assert np.abs(found.astype(int) - expected)[:2, opaque].max() <= 1
    assert (found[3] != expected[3]).mean() < 1e-4


def test_the_views_of_two_zones_make_one_mosaic(results: Path, write_tile) -> None:
    grid = [1_678_000.0, 5_610_010.0, 1_691_500.0, 5_623_510.0], 18.0
    _, view = build_both(results, grid)
    other = results / "tiles" / "other.tif"
    dark = colours(0, 0, 250)
    dark[500:600, 300:500, :3] = 0  # valid, and no nodata
    write_tile(other, dark, origin=(35_000.0, 5_000_000.0), epsg=32634)
    zone, other_view, mosaic = (results / "mosaic" / f"{n}.vrt" for n in ("other", "view", "demo"))
    build_mosaic([other], zone)
    build_warped(zone, other_view, *grid, "bilinear")
    build_mosaic([view, other_view], mosaic)
    found, first, second = read(mosaic), read(view), read(other_view)
    over = second[..., 3] == 255
    assert (second[over] == (0, 0, 0, 255)).all(axis=-1).sum() > 5000
    between = (second[..., 2] > 50) & (second[..., 2] < 200)  # of 0 and 250
    assert (over & between).sum() > 100
    assert (found[over] == second[over]).all()
    under = second[..., 3] == 0
    assert (found[under] == first[under]).all()
