"""The simulated source: files and items as the real product's, and true to the world."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from osgeo import osr

from basemake.build.quarter import Quarter
from basemake.demo import simulated
from basemake.demo.grid import grid_tile, tiles_covering
from basemake.demo.simulated import simulate
from basemake.demo.world import reflectance
from basemake.pixels.raster import open_geotiff

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
REGION = shapely.box(17.75, 43.5, 17.95, 43.7)  # two tiles, one in each zone; a gap in both
SEED, PIXEL = 41, 180.0

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="skipped: real data not beside the checkout"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    directory = tmp_path_factory.mktemp("simulated")
    return directory, simulate(REGION, Quarter(2025, 3), directory, SEED, PIXEL)


def files(directory: Path) -> dict[str, bytes]:
    """The bytes of each file by its path, hidden files and all."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_tile_has_three_bands_and_nothing_else(source: tuple[Path, list]) -> None:
    directory, items = source
    ids = [f"Sentinel-2_mosaic_2025_Q3_{tile.tile}" for tile in tiles_covering(REGION)]
    assert [item["id"] for item in items] == ids
    assert len(ids) == 2
    assert sorted(files(directory)) == [
        f"{i}/{band}.tif" for i in ids for band in ("B02", "B03", "B04")
    ]
    assert sorted(path.name for path in directory.iterdir()) == ids


@pytest.mark.parametrize(("number", "band"), [(0, "B04"), (1, "B03"), (2, "B02")])
def test_pixels_are_the_world_at_their_centres(
    source: tuple[Path, list], number: int, band: str
) -> None:
    directory, items = source
    for item in items:
        tile = grid_tile(item["id"].split("_", 4)[-1])
        with open_geotiff(directory / item["id"] / f"{band}.tif") as dataset:
            dn = dataset.ReadAsArray()
            transform = dataset.GetGeoTransform()
            utm = dataset.GetSpatialRef()
        assert utm.GetAuthorityCode(None) == str(tile.epsg)
        assert transform == (tile.ulx, PIXEL, 0, tile.uly, 0, -PIXEL)
        assert dn.dtype == np.int16
        rows, columns = np.random.default_rng(0).integers(0, dn.shape[0], (2, 2_000))
        wgs84 = osr.SpatialReference()
        wgs84.ImportFromEPSG(4326)
        wgs84.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
        x, y = tile.ulx + (columns + 0.5) * PIXEL, tile.uly - (rows + 0.5) * PIXEL
        to_wgs84 = osr.CoordinateTransformation(utm, wgs84)
        lon, lat, _ = np.array(to_wgs84.TransformPoints(np.column_stack([x, y]))).T
        expected = reflectance(lon, lat, SEED)[number] * 10_000
        observed = ~np.isnan(expected) & (dn[rows, columns] != -32768)
        assert observed.sum() > 1_000
        assert np.abs(dn[rows, columns] - expected)[observed].max() <= 1
        disagree = np.isnan(expected) != (dn[rows, columns] == -32768)
        # ^ PROJ is interpolated to centimetres: a point on a gap's border may fall on either side
        assert disagree.mean() < 0.002
        assert np.isnan(expected).any()


def test_files_are_cogs_as_the_product_has(source: tuple[Path, list]) -> None:
    directory, items = source
    with open_geotiff(directory / items[0]["id"] / "B04.tif") as dataset:
        band = dataset.GetRasterBand(1)
        structure = dataset.GetMetadata("IMAGE_STRUCTURE")
        assert (structure["LAYOUT"], structure["COMPRESSION"]) == ("COG", "DEFLATE")
        assert structure["PREDICTOR"] == "2"
        # Which some versions of GDAL note, and others do not
        assert "OVERVIEW_RESAMPLING" not in structure
        assert band.GetNoDataValue() == -32768
        assert band.GetBlockSize() == [1024, 1024]
        reduced = [band.GetOverview(number) for number in range(band.GetOverviewCount())]
        sides = [dataset.RasterXSize, *(image.XSize for image in reduced)]
        assert all(half in (side // 2, -(-side // 2)) for side, half in pairwise(sides))
        assert 156 < sides[-1] <= 313
        dn = band.ReadAsArray(0, 0, 200, 200).astype(float)
        halves = dn.reshape(100, 2, 100, 2).mean(axis=(1, 3))
        valid = (dn != -32768).reshape(100, 2, 100, 2).all(axis=(1, 3))
        assert valid.any()
        assert np.abs(reduced[0].ReadAsArray(0, 0, 100, 100) - halves)[valid].max() <= 0.5
        assert dataset.RasterCount == 1


def test_items_tell_sizes_and_checksums(source: tuple[Path, list]) -> None:
    directory, items = source
    for item in items:
        for band, asset in item["assets"].items():
            content = (directory / asset["href"]).read_bytes()
            assert asset["href"] == f"./{item['id']}/{band}.tif"
            assert asset["file:size"] == len(content)
            assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
            assert asset["proj:shape"] == [556, 556]
            assert (asset["gsd"], item["properties"]["gsd"]) == (180, 180)


def test_items_are_dated_by_their_quarter(source: tuple[Path, list]) -> None:
    properties = source[1][0]["properties"]
    assert properties["datetime"] == properties["start_datetime"] == "2025-07-01T00:00:00Z"
    assert properties["end_datetime"] == "2025-09-30T23:59:59Z"
    assert properties["updated"] == "2025-10-16T00:00:00Z"


def test_items_survive_json(source: tuple[Path, list]) -> None:
    assert json.loads(json.dumps(source[1])) == source[1]


@needs_data
def test_items_have_members_and_types_of_genuine_ones(source: tuple[Path, list]) -> None:
    path = DATA / "stac" / "cdse_items" / "Sentinel-2_mosaic_2024_Q1_53UNV_0_0.json"
    genuine = json.loads(path.read_text())
    item = source[1][0]
    assert item.keys() == genuine.keys()
    ours = (item["properties"], item["assets"]["B04"])
    theirs = (genuine["properties"], genuine["assets"]["B04"])
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() - their.keys() <= {"file:checksum"}
        assert all(type(our[key]) is type(their[key]) for key in our.keys() & their.keys())


def test_a_second_call_writes_nothing(source: tuple[Path, list]) -> None:
    directory, items = source
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert simulate(REGION, Quarter(2025, 3), directory, SEED, PIXEL) == items
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_bytes_depend_on_neither_folder_nor_workers_nor_threads(
    source: tuple[Path, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_NUM_THREADS", "3")
    items = simulate(REGION, Quarter(2025, 3), tmp_path, SEED, PIXEL, workers=1)
    assert items == source[1]
    assert files(tmp_path) == files(source[0])


@pytest.mark.parametrize(("seed", "pixel"), [(SEED + 1, PIXEL), (SEED, 360.0)])
def test_another_world_takes_the_place_of_the_first(
    tmp_path: Path, seed: int, pixel: float
) -> None:
    region = shapely.box(18.9, 43.5, 19.0, 43.6)
    (first,) = simulate(region, Quarter(2025, 3), tmp_path, SEED, PIXEL)
    (second,) = simulate(region, Quarter(2025, 3), tmp_path, seed, pixel)
    assert first["assets"]["B04"]["file:checksum"] != second["assets"]["B04"]["file:checksum"]


def test_a_run_cut_short_leaves_no_file_and_the_next_makes_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = shapely.box(18.9, 43.5, 19.0, 43.6)

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simulated.gdal, "Translate", broken)
        with pytest.raises(KeyboardInterrupt):
            simulate(region, Quarter(2025, 3), tmp_path, SEED, PIXEL)
    assert not list(tmp_path.glob("Sentinel-2_*/*"))
    (item,) = simulate(region, Quarter(2025, 3), tmp_path, SEED, PIXEL)
    assert len(files(tmp_path)) == 3
    assert item["assets"].keys() == {"B02", "B03", "B04"}


def test_a_tile_across_the_antimeridian_has_west_greater_than_east(tmp_path: Path) -> None:
    (item,) = simulate(
        shapely.box(-179.95, -16.75, -179.9, -16.7), Quarter(2025, 3), tmp_path, SEED, 720.0
    )[-1:]
    west, south, east, north = item["bbox"]
    assert west > 179 > -179 > east
    assert south < north
    assert item["geometry"]["type"] == "MultiPolygon"


@pytest.mark.parametrize("pixel", [7.0, 0.0, -90.0, 100.0, float("nan")])
def test_a_pixel_size_that_does_not_divide_a_tile_is_refused(tmp_path: Path, pixel: float) -> None:
    with pytest.raises(ValueError, match=f"pixel_size {pixel} .*90"):
        simulate(REGION, Quarter(2025, 3), tmp_path, SEED, pixel)
