"""Whole runs that fetch only what the map needs, from a real server that logs each request."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pytest
import shapely
import yaml
from expected import enhancing, fetching, paging
from osgeo import gdal, osr
from runs import SOURCE, Scene
from shapely.geometry import mapping

from basemake.build.quarter import Quarter
from basemake.demo.simulated import simulate
from servers import Fault, FaultyServer, behave, garbled, no_ranges, s3_server, stall

TILE, LEFT, TOP = "33TWJ_0_0", 499_980, 4_900_020
PIXEL, BLOCK = 180, 128  # metres; pixels: 556 pixels are 5 x 5 blocks, 278 are 3 x 3
BANDS = ("B02", "B03", "B04")  # in the order in which they are fetched
CITY = (1.4, 2.4, 1.6, 2.6)  # west, north, east, south in blocks: in the middle of block 11
HEADER = 65_536


def outline(west: float, north: float, east: float, south: float) -> shapely.Geometry:
    """A rectangle in blocks of the tile, in degrees."""
    side = PIXEL * BLOCK
    box = shapely.box(
        LEFT + west * side, TOP - south * side, LEFT + east * side, TOP - north * side
    )
    utm, wgs84 = osr.SpatialReference(), osr.SpatialReference()
    utm.ImportFromEPSG(32633)
    wgs84.ImportFromEPSG(4326)
    wgs84.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    to_degrees = osr.CoordinateTransformation(utm, wgs84)
    return shapely.transform(box, lambda xy: np.array(to_degrees.TransformPoints(xy))[:, :2])


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[list[dict], dict[str, bytes]]:
    """The item of a tile, and its bands by file name, as cloud-optimized GeoTIFFs of many blocks.

    A band has noise of its own, so that a block of it is larger than its header.
    """
    folder = tmp_path_factory.mktemp("world")
    items = simulate(outline(2, 2, 2.1, 2.1), Quarter(2025, 3), folder, 41, PIXEL)
    files = {}
    for number, (band, asset) in enumerate(sorted(items[0]["assets"].items())):
        plain = gdal.Open(str(folder / asset["href"]))
        noisy = gdal.GetDriverByName("MEM").CreateCopy("", plain)
        noise = np.random.default_rng(number).integers(0, 2000, (plain.RasterYSize,) * 2)
        noisy.GetRasterBand(1).WriteArray((plain.ReadAsArray() + noise).astype(np.int16))
        options = ["COMPRESS=DEFLATE", "PREDICTOR=YES", f"BLOCKSIZE={BLOCK}", "OVERVIEW_COUNT=1"]
        gdal.Translate(str(folder / "cog.tif"), noisy, format="COG", creationOptions=options)
        files[f"/{band}.tif"] = (folder / "cog.tif").read_bytes()
    return items, files


class City(Scene):
    """A build of one tile whose bands are on a server."""

    server: FaultyServer
    arguments: tuple[str, ...] = ()  # of all its runs

    def options(self) -> list[str]:
        return [*super().options(), *self.arguments]

    def begin(self, items: list[dict], hosts: list[str], size: bool = True) -> None:
        """Write config, catalog and polygon."""
        for band, asset in items[0]["assets"].items():
            asset["href"] = f"{self.server.url}/{band}.tif"
            asset.pop("file:checksum", None)
            asset.pop("file:size", None)
            if size:
                asset["file:size"] = len(self.server.files[f"/{band}.tif"])
        limits = {"requests_per_minute": 60_000, "longest_wait_seconds": 0.1}
        source = {**SOURCE, "hosts": hosts, "limits": {**limits, "patience_seconds": 20}}
        (self.directory / "source.yaml").write_text(yaml.safe_dump(source))
        (self.directory / "catalog").mkdir()
        self.items = items
        self.show(CITY)

    def show(self, place: tuple[float, float, float, float]) -> None:
        polygon = mapping(outline(*place))
        (self.directory / "city.geojson").write_text(json.dumps(polygon))

    def asked(self) -> dict[str, list[str | None]]:
        """The ranges asked for since the last call, by band."""
        asked = self.server.asked()
        self.server.log.clear()
        return {
            band: [one.range for one in asked if one.path == f"/{band}.tif"]
            for band in BANDS
            if any(one.path == f"/{band}.tif" for one in asked)
        }

    def output(self) -> dict[str, bytes]:
        """All that a build leaves for people, and the bands."""
        return {**self.lasting(), **self.files("bands/*/*")}


@pytest.fixture
def city(world, tmp_path: Path) -> Iterator[City]:
    items, files = world
    with FaultyServer(files) as server:
        config = {
            "source": "source.yaml",
            "quarter": "2025Q3",
            "regions": {"city": "city.geojson"},
            "pyramid": {"max_zoom": 9, "min_zoom": 6, "metatile_zoom": 5},
        }
        (tmp_path / "city").mkdir()
        city = City(tmp_path / "city", config)
        city.server = server
        city.begin(json.loads(json.dumps(items)), [server.host])
        yield city


@pytest.fixture
def from_nothing(tmp_path: Path) -> Callable[[City], dict[str, bytes]]:
    """A function that builds a city in a new directory and returns what that leaves."""

    def build(city: City) -> dict[str, bytes]:
        fresh = replace(city, directory=tmp_path / "fresh")
        fresh.directory.mkdir()
        fresh.server = city.server
        for name in ("city.geojson", "source.yaml"):
            (fresh.directory / name).write_bytes((city.directory / name).read_bytes())
        (fresh.directory / "catalog").mkdir()
        fresh.items = city.items
        fresh.build()
        city.server.log.clear()
        return fresh.output()

    return build


def blocks_here(city: City, band: str = "B04") -> set[int]:
    """The numbers of the blocks that a band's file holds."""
    dataset = gdal.Open(str(city.results / f"bands/{TILE}/{band}.tif"))
    layer = dataset.GetRasterBand(1)
    across = -(-dataset.RasterXSize // BLOCK)
    return {
        row * across + column
        for row in range(-(-dataset.RasterYSize // BLOCK))
        for column in range(across)
        if layer.GetMetadataItem(f"BLOCK_OFFSET_{column}_{row}", "TIFF") is not None
    }


def test_a_city_takes_a_block_of_each_band(city: City, world) -> None:
    city.build()
    asked = city.asked()
    assert set(asked) == set(BANDS)
    assert all(ranges[0] == f"bytes=0-{HEADER - 1}" for ranges in asked.values())
    assert all(len(ranges) == 2 for ranges in asked.values())
    for band in BANDS:
        path = city.results / f"bands/{TILE}/{band}.tif"
        here, whole = (
            gdal.Open(str(path)),
            gdal.FileFromMemBuffer("/vsimem/w", world[1][f"/{band}.tif"]),
        )
        whole = gdal.Open("/vsimem/w")
        assert here.GetGeoTransform() == whole.GetGeoTransform()
        assert here.GetSpatialRef().IsSame(whole.GetSpatialRef())
        expected = np.full(whole.ReadAsArray().shape, -32768)
        window = np.s_[2 * BLOCK : 3 * BLOCK, BLOCK : 2 * BLOCK]
        expected[window] = whole.ReadAsArray()[window]
        np.testing.assert_array_equal(here.ReadAsArray(), expected)
        said = here.GetMetadata()
        assert (said["LEVEL"], said["BLOCKS"]) == ("0", "11")
        assert said["SIZE"] == str(len(world[1][f"/{band}.tif"]))
        assert said["VALIDATOR"].startswith('"')
    assert "Nothing to be done" in city.run("--cores", "2")
    assert not city.asked()


def test_a_polygon_that_needs_no_other_blocks_fetches_and_enhances_nothing(
    city: City, from_nothing: Callable
) -> None:
    city.build()
    city.asked()
    city.show((1.35, 2.35, 1.65, 2.65))
    city.run("manifest")
    jobs = city.jobs("--cores", "2")
    assert jobs
    assert not jobs & (fetching([TILE]) | enhancing([TILE]))
    assert not city.asked()
    assert city.output() == from_nothing(city)


def test_a_polygon_that_grows_fetches_only_the_new_blocks_and_one_that_shrinks_nothing(
    city: City, from_nothing: Callable
) -> None:
    city.build()
    first, asked = city.output(), city.asked()
    city.show((1.4, 2.4, 2.6, 2.6))
    city.run("manifest")
    assert fetching([TILE]) | enhancing([TILE]) <= city.jobs("--cores", "2")
    more = city.asked()
    for band in BANDS:
        assert len(more[band]) == 2
        assert more[band][0] == f"bytes=0-{HEADER - 1}"
        assert more[band][1] != asked[band][1]
    assert blocks_here(city) == {11, 12}
    assert city.output() == from_nothing(city)

    city.show(CITY)
    city.run("manifest")
    assert fetching([TILE]) | enhancing([TILE]) <= city.jobs("--cores", "2")
    assert not city.asked()
    assert blocks_here(city) == {11}
    assert city.output() == first


def test_blocks_in_a_bucket_are_not_fetched_again(city: City, from_nothing: Callable) -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    with s3_server() as endpoint:
        keys = {"aws_access_key_id": "us-east-1", "aws_secret_access_key": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket="maps")
        city.environment = {**dict.fromkeys(names, "us-east-1"), "AWS_ENDPOINT_URL_S3": endpoint}
        city.arguments = ("--default-storage-prefix", "s3://maps")
        city.build()
        asked = city.asked()
        shutil.rmtree(city.results)
        city.show((1.4, 2.4, 2.6, 2.6))
        city.build()
        more = city.asked()
        for band in BANDS:
            assert len(more[band]) == 2
            assert more[band][1] != asked[band][1]
        for path, data in from_nothing(city).items():
            if path.startswith("stac/"):  # folders are not kept in a bucket
                continue
            assert client.get_object(Bucket="maps", Key=f"results/{path}")["Body"].read() == data


def test_a_higher_top_zoom_fetches_a_finer_image(city: City, from_nothing: Callable) -> None:
    sides = {8: 278, 9: 556}
    for zoom, side in sides.items():
        city.config["pyramid"]["max_zoom"] = zoom
        city.run("manifest")
        city.run("--cores", "2")
        dataset = gdal.Open(str(city.results / f"bands/{TILE}/B04.tif"))
        assert (dataset.RasterXSize, dataset.RasterYSize) == (side, side)
        assert city.asked().keys() == set(BANDS)
    assert city.output() == from_nothing(city)


def test_whole_bands_are_cut_here_and_parts_are_made_whole(
    city: City, world, from_nothing: Callable
) -> None:
    city.config["fetch"] = "whole"
    city.build()
    whole = city.output()
    assert city.files("bands/*/*") == {
        f"bands/{TILE}/{path[1:]}": content for path, content in world[1].items()
    }
    assert city.asked() == {band: [None] for band in BANDS}
    city.config["fetch"] = "needed"
    city.run("--cores", "2")
    assert not city.asked()
    assert blocks_here(city) == {11}
    assert city.output() == from_nothing(city)
    city.config["fetch"] = "whole"
    city.run("--cores", "2")
    assert city.asked() == {band: [None] for band in BANDS}
    assert city.output() == whole


def test_a_kill_keeps_the_blocks_that_were_there(city: City, from_nothing: Callable) -> None:
    city.build()
    city.show((1.4, 2.4, 2.6, 2.6))
    city.run("manifest")
    city.asked()
    city.server.script("/B03.tif", behave, stall(20_000))
    # By one connection bands come in order.
    killed = city.start("--cores", "2", "--resources", "connections=1")
    part = city.results / f"bands/{TILE}/B03.tif.part.ranges"
    city.server.wait_until(lambda: part.exists() and part.stat().st_size > HEADER + 8000, 60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = city.asked()
    assert [len(before[band]) for band in ("B02", "B03")] == [2, 2]
    assert not gdal.VSIStatL(str(city.results / f"records/bands/{TILE}/B02.tif.json"))
    city.run("--cores", "2")
    after = city.asked()
    # All of the first band is there, and of the second what had come before the kill.
    start, stop = map(int, before["B03"][1].removeprefix("bytes=").split("-"))
    assert after.keys() == {"B03", "B04"}
    [rest] = after["B03"]
    assert start < int(rest.removeprefix("bytes=").split("-")[0]) <= stop
    assert len(after["B04"]) == 2
    assert city.output() == from_nothing(city)
    assert not list(city.results.rglob("*.part*"))


def test_a_server_without_ranges_gives_whole_bands_and_the_log_says_why(
    city: City, world, from_nothing: Callable
) -> None:
    for band in BANDS:
        city.server.always(f"/{band}.tif", no_ranges())
    city.build()
    assert city.files("bands/*/*") == {
        f"bands/{TILE}/{path[1:]}": content for path, content in world[1].items()
    }
    log = (city.directory / f"logs/bands/{TILE}.log").read_text()
    assert log.count("fetched whole: the service does not give parts of it") == len(BANDS)
    assert "Nothing to be done" in city.run("--cores", "2")
    city.asked()
    city.show((1.4, 2.4, 2.6, 2.6))
    city.run("manifest")
    assert not city.jobs("--cores", "2") & (fetching([TILE]) | enhancing([TILE]))
    assert not city.asked()
    assert city.output() == from_nothing(city)


@pytest.mark.parametrize(("etags", "kept"), [("strong", True), ("dates", False)])
def test_a_newer_item_of_the_same_bands_makes_nothing_again(
    city: City, world, etags: str, kept: bool
) -> None:
    city.server.etags = etags
    city.config["keep_bands"] = kept
    city.build()
    before = city.output()
    city.asked()
    items = city.items
    items[0]["properties"]["updated"] = "2026-02-01T00:00:00Z"
    city.items = items
    assert "3 bands of newer items are the same as before" in city.run("manifest")
    assert [one.status for one in city.server.asked()] == [304] * 3
    assert sum(one.sent for one in city.server.asked()) == 0
    # But for the page, which tells the date.
    assert city.jobs("--cores", "2") == paging("city")
    told = (city.results / "preview/city.html").read_text()
    assert '"updated": "2026-02-01T00:00:00Z"' in told
    assert {**city.output(), "preview/city.html": before["preview/city.html"]} == before
    city.asked()
    # A second time, and now one of the bands is another one.
    items[0]["properties"]["updated"] = "2026-03-01T00:00:00Z"
    city.items = items
    old = world[1]["/B03.tif"]
    city.server.files["/B03.tif"] = old[:-1] + bytes([old[-1] ^ 1])
    assert "2 bands of newer items" in city.run("manifest")
    city.asked()
    assert fetching([TILE]) | enhancing([TILE]) <= city.jobs("--cores", "2")
    assert city.asked().keys() == ({"B03"} if kept else set(BANDS))


@pytest.mark.parametrize("max_zoom", [8, 9])
def test_the_plan_tells_the_bytes_that_come(city: City, max_zoom: int) -> None:
    city.config["pyramid"]["max_zoom"] = max_zoom
    # Once headers are known it is exact, but for the eight bytes around each block.
    for east, near in ((3.4, 0.25), (4.2, 0.01)):
        city.show((0.5, 0.5, east, 4.4))
        city.run("manifest")
        planned = json.loads(city.says("plan", "--json"))["download"]
        city.server.log.clear()
        city.run("--cores", "2")
        came = sum(one.sent for one in city.server.asked())
        assert planned["files"] == len(BANDS)
        assert planned["bytes"] == pytest.approx(came, rel=near)


def test_the_plan_knows_what_the_draft_saw(city: City) -> None:
    city.show((-0.5, -0.5, 5.5, 5.5))  # all of the tile
    city.run("manifest")
    assert city.call("draft", "--cores", "2").returncode == 0
    planned = json.loads(city.says("plan", "--json"))["download"]
    city.server.log.clear()
    city.run("--cores", "2")
    came = sum(one.sent for one in city.server.asked())
    assert planned["files"] == len(BANDS)
    assert planned["bytes"] == pytest.approx(came, rel=0.01)


@pytest.mark.parametrize(
    ("fault", "max_zoom"), [(no_ranges(), 8), (garbled(), 9)], ids=["whole", "garbled"]
)
def test_one_wrong_answer_changes_nothing_for_good(
    city: City, from_nothing: Callable, fault: Fault, max_zoom: int
) -> None:
    """A band is asked for again before it is taken for one of which no parts can be had."""
    city.config["pyramid"]["max_zoom"] = max_zoom
    city.server.script("/B03.tif", fault)
    city.build()
    assert len(city.server.asked("/B03.tif")) <= 4
    assert "Nothing to be done" in city.run("--cores", "2")
    assert city.output() == from_nothing(city)


def test_a_service_that_changes_its_mind(city: City, from_nothing: Callable) -> None:
    """Bands are of one grid whatever it answers, and once it gives parts, the right ones."""
    city.config["pyramid"]["max_zoom"] = 8
    city.server.script("/B03.tif", no_ranges(), no_ranges())
    city.build()
    sides = [gdal.Open(str(path)).RasterXSize for path in city.results.glob("bands/*/*.tif")]
    assert len(set(sides)) == 1
    assert "Nothing to be done" in city.run("--cores", "2")


def test_bands_with_other_reduced_images(
    city: City, world, tmp_path: Path, from_nothing: Callable
) -> None:
    """Then the full image is needed of all."""
    name = "/vsimem/other.tif"
    gdal.FileFromMemBuffer(name, world[1]["/B03.tif"])
    options = ["TILED=YES"]
    plain = gdal.Translate(str(tmp_path / "plain.tif"), name, creationOptions=options)
    plain.BuildOverviews("NONE", [])
    plain.BuildOverviews("AVERAGE", [4])
    del plain
    other = tmp_path / "other.tif"
    options = ["COMPRESS=DEFLATE", f"BLOCKSIZE={BLOCK}", "OVERVIEWS=FORCE_USE_EXISTING"]
    gdal.Translate(str(other), str(tmp_path / "plain.tif"), format="COG", creationOptions=options)
    gdal.Unlink(name)
    city.server.files["/B03.tif"] = other.read_bytes()
    items = city.items
    items[0]["assets"]["B03"]["file:size"] = other.stat().st_size
    items[0]["assets"]["B03"].pop("file:checksum", None)
    city.items = items
    city.config["pyramid"]["max_zoom"] = 7
    city.build()
    sides = [gdal.Open(str(path)).RasterXSize for path in city.results.glob("bands/*/*.tif")]
    assert len(set(sides)) == 1
    assert "Nothing to be done" in city.run("--cores", "2")
    assert city.output() == from_nothing(city)


def test_a_kill_while_a_band_is_fetched_whole_leaves_parts_possible(
    city: City, from_nothing: Callable
) -> None:
    city.run("manifest")
    for fetch, part, size, faults in (
        ("needed", ".part.ranges", HEADER + 10_000, [behave, stall(20_000)]),  # in a block
        ("whole", ".part", 90_000, [stall(110_000)]),
    ):
        city.config["fetch"] = fetch
        city.server.script("/B02.tif", *faults)
        running = city.start("--cores", "2")
        path = city.results / f"bands/{TILE}/B02.tif{part}"
        city.server.wait_until(lambda p=path, n=size: p.exists() and p.stat().st_size > n, 60)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    city.config["fetch"] = "needed"
    city.run("--cores", "2")
    assert city.output() == from_nothing(city)
