"""Whole runs that fill holes from further items, from files and from a server."""

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from expected import enhancing, fetching, paging
from faults import add_spring
from osgeo import gdal
from runs import EDGE, NORTH, SOURCE, Scene, lay_out
from test_needed import BANDS, BLOCK, PIXEL, TILE, City, outline

from basemake.build.quarter import Quarter
from basemake.demo.simulated import simulate
from basemake.pixels.fill import is_empty
from servers import FaultyServer, behave, stall

NODATA = -32768
ALL = (0.2, 0.2, 4.2, 4.2)  # all 5 x 5 blocks of a band


# -- From files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Scene:
    """The northern end of the base, whose quarter another one fills."""
    scene = lay_out(tmp_path_factory.mktemp("filled"), NORTH)
    add_spring(scene)
    scene.config["fill"] = ["2025Q2"]
    scene.build(cores=4)
    return scene


@pytest.fixture
def scene(filled: Scene, tmp_path: Path) -> Scene:
    return filled.copy(tmp_path / "scene")


def provenance(scene: Scene, tile: str) -> np.ndarray:
    return gdal.Open(str(scene.results / f"tiles/{tile}.provenance.tif")).ReadAsArray()


def test_holes_show_another_quarter_and_all_else_is_as_without(
    filled: Scene, tmp_path: Path, from_nothing: Callable
) -> None:
    plain = replace(filled, config={**filled.config, "fill": []})
    without = from_nothing(plain)
    tile = gdal.Open(str(filled.results / f"tiles/{EDGE}.tif"))
    path = tmp_path / "plain.tif"
    path.write_bytes(without[f"tiles/{EDGE}.tif"])
    before, after = gdal.Open(str(path)).ReadAsArray(), tile.ReadAsArray()
    item = provenance(filled, EDGE)
    np.testing.assert_array_equal(before[:, item == 1], after[:, item == 1])
    assert (item[20:150, 20:120] == 2).any()
    assert not before[3][item == 2].any()
    assert (after[3][item == 2] == 255).all()
    assert (after[3][item == 0] == 0).all()
    place = gdal.Open(str(filled.results / f"tiles/{EDGE}.provenance.tif"))
    assert place.GetGeoTransform() == tile.GetGeoTransform()
    assert place.GetSpatialRef().IsSame(tile.GetSpatialRef())
    names = [f"Sentinel-2_mosaic_2025_{quarter}_{EDGE}" for quarter in ("Q3", "Q2")]
    assert json.loads(tile.GetMetadataItem("ITEMS")) == names
    shares = json.loads(tile.GetMetadataItem("SHARES"))
    counts = np.bincount(item.ravel(), minlength=3)
    assert shares == pytest.approx(list(counts[1:] / counts[1:].sum()), abs=1e-6)
    # Of a tile without holes nothing is copied.
    for folder in filled.results.glob("bands/*"):
        whole = bool((provenance(filled, folder.name) == 1).all())
        assert is_empty(folder / "B04.2.tif") == whole


def test_switching_filling_on_and_off(filled: Scene, tmp_path: Path, from_nothing) -> None:
    """Bands that are here stay; further items that are no longer asked for are orphans."""
    off = replace(filled.copy(tmp_path / "off"))
    off.config["fill"] = []
    off.run("manifest")
    off.run("--cores", "4")
    orphans = off.says("prune")
    assert "B04.2" in orphans
    kept = {
        path: content
        for path, content in off.lasting().items()
        if not path.endswith("provenance.tif")
    }
    assert kept == from_nothing(off)
    off.config["fill"] = ["2025Q2"]
    off.run("manifest")
    assert "Holes" not in off.says("plan")  # what is here was made of the first items alone
    off.run("--cores", "4")
    assert off.lasting() == filled.lasting()


# -- From a server ---------------------------------------------------------------------------------

CLOUD = 9
# Pixels, in blocks 11 and 12: clouds of both items, which overlap in a part of block 12.
CLOUDS = (np.s_[300:350, 180:300], np.s_[320:340, 260:300])


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> tuple[list[dict], dict[str, bytes]]:
    """Items of a tile in two quarters, and their bands and masks of clouds, on a server."""
    folder = tmp_path_factory.mktemp("objects")
    items, files = [], {}
    for number, quarter in enumerate((Quarter(2025, 3), Quarter(2025, 2))):
        [item] = simulate(outline(2, 2, 2.1, 2.1), quarter, folder, 41, PIXEL)
        path = folder / item["assets"]["B04"]["href"]
        noise = np.random.default_rng(number)
        for key in (*BANDS, "SCL"):
            like = gdal.GetDriverByName("MEM").CreateCopy("", gdal.Open(str(path)))
            pixels = noise.integers(1000, 2000, (like.RasterYSize,) * 2) * (1 + number)
            if key == "SCL":
                pixels = 4 + noise.integers(0, 3, pixels.shape)
                pixels[CLOUDS[number]] = CLOUD
            like.GetRasterBand(1).WriteArray(pixels.astype(np.int16))
            options = ["COMPRESS=DEFLATE", "PREDICTOR=YES", f"BLOCKSIZE={BLOCK}"]
            options += ["OVERVIEW_COUNT=1", "OVERVIEW_RESAMPLING=NEAREST"]
            cog = folder / "cog.tif"
            gdal.Translate(str(cog), like, format="COG", creationOptions=options)
            files[f"/{number + 1}/{key}.tif"] = cog.read_bytes()
        items.append(item)
    return items, files


class Clouded(City):
    """A build of one tile whose bands, and those of another quarter, are on a server."""

    def serve(self, items: list[dict]) -> None:
        """Write config, catalog and polygon for items whose assets are on the server."""
        for number, item in enumerate(items, 1):
            item["assets"] = {
                key: {"href": f"{self.server.url}/{number}/{key}.tif"} for key in (*BANDS, "SCL")
            }
        limits = {"requests_per_minute": 60_000, "longest_wait_seconds": 0.1}
        source = {**SOURCE, "hosts": [self.server.host], "limits": limits}
        source["mask"] = {"asset": "SCL", "invalid": [0, CLOUD]}
        (self.directory / "source.yaml").write_text(yaml.safe_dump(source))
        (self.directory / "catalog").mkdir()
        self.items = items
        self.show(ALL)

    def came(self) -> dict[str, int]:
        """The bytes that came of each object since the last call."""
        asked = self.server.asked()
        self.server.log.clear()
        found: dict[str, int] = {}
        for one in asked:
            found[one.path] = found.get(one.path, 0) + one.sent
        return found

    def output(self) -> dict[str, bytes]:
        return {**self.lasting(), **self.files("bands/*/*")}


@pytest.fixture
def clouded(objects, tmp_path: Path) -> Iterator[Clouded]:
    items, files = objects
    with FaultyServer(files) as server:
        config = {
            "source": "source.yaml",
            "quarter": "2025Q3",
            "fill": ["2025Q2"],
            "regions": {"city": "city.geojson"},
            "pyramid": {"max_zoom": 9, "min_zoom": 6, "metatile_zoom": 5},
        }
        (tmp_path / "clouded").mkdir()
        clouded = Clouded(tmp_path / "clouded", config)
        clouded.server = server
        clouded.serve(json.loads(json.dumps(items)))
        yield clouded


def block_bytes(content: bytes, numbers: set[int]) -> int:
    """The bytes of blocks of the full image of an object."""
    with tifffile.TiffFile(io.BytesIO(content)) as tif:
        return sum(tif.pages[0].databytecounts[number] for number in numbers)


def test_only_blocks_that_cover_holes_come(clouded: Clouded, objects) -> None:
    header = 65_536
    clouded.run("manifest")
    planned = json.loads(clouded.says("plan", "--json"))["download"]
    assert 0 < planned["filling_bytes"] < planned["bytes"]
    clouded.run("--cores", "2")
    came = clouded.came()
    for key in (*BANDS, "SCL"):
        path = f"/2/{key}.tif"
        expected = header + block_bytes(objects[1][path], {11, 12})
        assert expected <= came[path] <= expected + 64  # and the lengths around each block
    tile = gdal.Open(str(clouded.results / f"tiles/{TILE}.provenance.tif")).ReadAsArray()
    both = np.zeros(tile.shape, bool)
    both[CLOUDS[1]] = True
    expected = np.ones(tile.shape, np.uint8)
    expected[CLOUDS[0]] = 2
    expected[CLOUDS[1]] = 128 + 1  # as bright as it is, it is darker than the second one
    np.testing.assert_array_equal(tile[~both], expected[~both])
    assert (tile[both] > 128).all()
    assert "Nothing to be done" in clouded.run("--cores", "2")
    assert not clouded.came()
    assert clouded.says("plan").count("Holes ") == 1


def fresh(clouded: Clouded, directory: Path) -> dict[str, bytes]:
    """The output of the same build in a new directory."""
    other = replace(clouded, directory=directory)
    other.server = clouded.server
    (directory / "catalog").mkdir(parents=True)
    for name in ("city.geojson", "source.yaml"):
        (directory / name).write_bytes((clouded.directory / name).read_bytes())
    other.items = clouded.items
    other.build()
    clouded.came()
    return other.output()


def test_each_item_of_which_something_is_shown_counts(clouded: Clouded, tmp_path: Path) -> None:
    clouded.build()
    built, items = clouded.output(), clouded.items
    clouded.came()
    again = fetching([TILE]) | enhancing([TILE])

    def search(date: str) -> str:
        items[1]["properties"]["updated"] = date
        clouded.items = items
        return clouded.run("manifest")

    # The item that fills is newer, but its bands are the same.
    assert "4 bands of newer items are the same" in search("2026-02-01T00:00:00Z")
    assert clouded.jobs("--cores", "2") == paging("city")  # as the page tells the date
    # Now one of them is another.
    old = clouded.server.files["/2/B03.tif"]
    clouded.server.files["/2/B03.tif"] = old[:-1] + bytes([old[-1] ^ 1])
    search("2026-03-01T00:00:00Z")
    clouded.came()
    assert again <= clouded.jobs("--cores", "2")
    assert clouded.came().keys() == {"/2/B03.tif"}
    clouded.server.files["/2/B03.tif"] = old
    search("2026-04-01T00:00:00Z")
    clouded.run("--cores", "2")
    page = "preview/city.html"  # which tells the date
    assert {**clouded.output(), page: built[page]} == built

    # Other values of the mask hide nothing: no item is needed to fill, and none matters.
    source = yaml.safe_load((clouded.directory / "source.yaml").read_text())
    source["mask"]["invalid"] = [0, 77]
    (clouded.directory / "source.yaml").write_text(yaml.safe_dump(source))
    clouded.came()
    assert again <= clouded.jobs("--cores", "2")
    assert not clouded.came()
    assert clouded.output() == fresh(clouded, tmp_path / "fresh")
    assert "/2/" not in "".join(clouded.came())
    items[1]["assets"]["B04"]["file:checksum"] = f"1220{64 * '0'}"
    search("2026-05-01T00:00:00Z")
    assert clouded.jobs("--dry-run") == paging("city")  # which tells the date


def test_a_kill_amid_what_fills_loses_no_block(clouded: Clouded, tmp_path: Path) -> None:
    clouded.run("manifest")
    clouded.server.script("/2/B03.tif", behave, stall(5_000))
    killed = clouded.start("--cores", "2", "--resources", "connections=1")
    part = clouded.results / f"bands/{TILE}/B03.2.tif.part.ranges"
    clouded.server.wait_until(lambda: part.exists() and part.stat().st_size > 68_000, 60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    clouded.came()
    clouded.run("--cores", "2")
    came = clouded.came()
    assert {path for path in came if "/1/" in path} == set()
    assert came["/2/B03.tif"] < 65_536  # the header had come
    assert not list(clouded.results.rglob("*.part*"))
    assert clouded.output() == fresh(clouded, tmp_path / "fresh")
