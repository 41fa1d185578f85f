"""What a report of a build is made of: places, pictures, the flow, and what jobs took."""

import base64
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image
from pmtiles.tile import TileType

from basemake.engine.graph import Graph, Job
from basemake.pixels.archive import pack_parts, write_part
from basemake.pixels.webtiles import WebTile, geometry_to_mercator, overlapping
from basemake.report.contents import MISSING, needs_of, reasons_of, uses_of
from basemake.report.flow import NODE, draw_flow
from basemake.report.frame import UNITS, Frame
from basemake.report.pictures import QUICKLOOK_SIDE, map_of, quicklook
from basemake.report.software import REQUIREMENTS, software

ZAGREB = shapely.box(15.5, 45.5, 16.5, 46.2)
# Taveuni and its neighbours, on both sides of 180 degrees
FIJI = shapely.MultiPolygon(
    [shapely.box(179, -17.5, 180, -16.5), shapely.box(-180, -17.5, -179, -16.5)]
)


def image_of(uri: str) -> Image.Image:
    kind, data = uri.split(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")


# -- Places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", [ZAGREB, FIJI, shapely.box(-180, -60, 180, 60)])
def test_a_frame_shows_all_of_an_area_with_a_margin(area: shapely.Geometry) -> None:
    frame = Frame(area, [])
    placed = frame.place(shapely.get_coordinates(area))
    assert max(frame.width, frame.height) == pytest.approx(UNITS)
    margin = 0.02 / 1.04 * UNITS
    assert placed.min(axis=0) == pytest.approx([margin, margin])
    assert placed.max(axis=0) == pytest.approx([frame.width - margin, frame.height - margin])
    [[_, north], [_, south]] = frame.place(np.array([[0, 50], [0, 40]]))
    assert north < south


def test_an_area_is_joined_where_it_was_split_at_180_degrees() -> None:
    frame = Frame(FIJI, [])
    assert frame.path(FIJI).count("M") == 1
    assert frame.path(ZAGREB.difference(ZAGREB.buffer(-0.1))).count("M") == 2, "it has a hole"
    assert frame.path(shapely.Polygon()) == ""


# -- Pictures --------------------------------------------------------------------------------------


def colour(webtile: WebTile) -> tuple[int, int, int]:
    return 40 + 70 * (webtile.x % 3), 40 + 70 * (webtile.y % 3), 20 * webtile.z


def archive_of(path: Path, area: shapely.Geometry, zooms: range, lacking: set[WebTile]) -> Path:
    """An archive of plain web tiles, each in a colour that tells which it is."""
    parts = {}
    for zoom in zooms:
        for webtile in overlapping(geometry_to_mercator(area), zoom):
            if webtile not in lacking:
                content = io.BytesIO()
                Image.new("RGB", (64, 64), colour(webtile)).save(content, "PNG")
                parts[webtile] = content.getvalue()
    write_part(path.with_suffix(".part.pmtiles"), parts.items(), "png")
    header: dict[str, Any] = {"tile_type": TileType.PNG}
    pack_parts([path.with_suffix(".part.pmtiles")], path, header, {"tile_size": 64})
    return path


@pytest.mark.parametrize("area", [ZAGREB, FIJI])
def test_a_map_shows_each_web_tile_in_its_place(area: shapely.Geometry, tmp_path: Path) -> None:
    zoom = 11
    webtiles = overlapping(geometry_to_mercator(area), zoom)
    missing = webtiles[len(webtiles) // 2]
    archive = archive_of(tmp_path / "a.pmtiles", area, range(zoom - 1, zoom + 1), {missing})
    frame = Frame(area, [])
    # So many pixels that a web tile of this zoom takes 64 of them, or a little less.
    side = math.floor(64 * 2**zoom * frame.metres * UNITS / 40_075_016)
    image = image_of(map_of(archive, frame, 64, side, 10**6))
    assert max(image.size) == side
    for webtile in webtiles:
        west, _, _, north = webtile.bounds
        middle = shapely.Point(
            math.degrees((west + 40_075_016 / 2**zoom / 2) / 6378137),
            math.degrees(math.atan(math.sinh((north - 40_075_016 / 2**zoom / 2) / 6378137))),
        )
        if area.contains(middle):
            [place] = frame.place(shapely.get_coordinates(middle)) * side / UNITS
            found = np.array(image.getpixel(tuple(place.astype(int).tolist())))
            if webtile == missing:
                assert found[3] == 0
            else:
                assert found[3] == 255
                assert np.abs(found[:3] - colour(webtile)).max() < 12


def test_a_map_is_as_coarse_as_its_picture_and_no_finer_than_its_archive(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.pmtiles", ZAGREB, range(6, 9), set())
    frame = Frame(ZAGREB, [])
    for side, zoom in ((20, 7), (64 * 3, 8), (900, 8)):
        image = image_of(map_of(archive, frame, 64, side, 10**6))
        pixels = np.array(image)
        blue = np.median(pixels[pixels[..., 3] == 255][:, 2])
        assert abs(blue - 20 * zoom) < 8, f"zoom {zoom} for {side} pixels"


def test_no_archive_or_a_broken_one_is_no_picture(tmp_path: Path) -> None:
    frame = Frame(ZAGREB, [])
    archive = archive_of(tmp_path / "a.pmtiles", ZAGREB, range(6, 7), set())
    assert map_of(archive, frame, 64, 100, 10**6)
    content = archive.read_bytes()
    for broken in (b"", content[:100], content[:-1], b"\0" * len(content)):
        archive.write_bytes(broken)
        assert map_of(archive, frame, 64, 100, 10**6) == ""
    archive.write_bytes(content.replace(b"IDAT", b"IXXT"))
    assert map_of(archive, frame, 64, 100, 10**6) == ""
    assert map_of(tmp_path / "none.pmtiles", frame, 64, 100, 10**6) == ""


def test_a_quicklook_has_the_colours_of_a_tile(tmp_path: Path, write_tile: Callable) -> None:
    rgba = np.zeros((701, 701, 4), np.uint8)
    rgba[:] = [200, 100, 50, 255]
    rgba[:, 350:] = [30, 90, 160, 255]
    rgba[:70, :350] = 0
    image = image_of(quicklook(write_tile(tmp_path / "a.tif", rgba), 10**5))
    assert max(image.size) == QUICKLOOK_SIDE
    assert np.abs(np.array(image.getpixel((40, 120))) - [200, 100, 50, 255]).max() < 12
    assert np.abs(np.array(image.getpixel((120, 40))) - [30, 90, 160, 255]).max() < 12
    assert image.getpixel((40, 8))[3] == 0


def test_a_tile_that_cannot_be_read_has_no_quicklook(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0 and nothing else")
    for name in ("a.tif", "none.tif"):
        assert quicklook(tmp_path / name, 10**5) == ""


@pytest.mark.parametrize("most", [300, 3000, 40_000])
def test_pictures_take_no_more_than_their_share(
    most: int, tmp_path: Path, write_tile: Callable
) -> None:
    """Noise is as large as a picture can be."""
    coarse = np.random.default_rng(0).choice([0, 255], (40, 40, 4)).astype(np.uint8)
    noise = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    noise[..., 3] = 255
    picture = quicklook(write_tile(tmp_path / "a.tif", noise), most)
    assert len(picture) <= most
    assert picture or most < 40_000


# -- The flow --------------------------------------------------------------------------------------

NEEDS = {
    "fetch": set(),
    "enhance": {"fetch"},
    "zone": {"enhance"},
    "mosaic": {"zone", "enhance"},
    "render": {"enhance"},
    "overview": {"render"},
    "pack": {"overview", "render"},
    "page": {"pack"},
    "cog": {"enhance", "mosaic"},
}


def test_a_rule_is_below_all_that_it_needs_and_beside_others() -> None:
    flow = draw_flow(NEEDS)
    at = {node.rule: node for node in flow.nodes}
    assert at.keys() == NEEDS.keys()
    for rule, needed in NEEDS.items():
        assert all(at[one].top + NODE[1] < at[rule].top for one in needed)
    boxes = [shapely.box(n.left, n.top, n.left + NODE[0], n.top + NODE[1]) for n in flow.nodes]
    assert all(not a.intersects(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert shapely.box(0, 0, flow.width, flow.height).contains(shapely.union_all(boxes))
    assert sum(line.arrives for line in flow.lines) == sum(map(len, NEEDS.values()))
    shuffled = {rule: NEEDS[rule] for rule in sorted(NEEDS)}
    assert draw_flow(shuffled) == flow


# -- Jobs ------------------------------------------------------------------------------------------

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"


def job(folder: Path, rule: str, tile: str, causes: list[str] | None, *took: str) -> Job:
    benchmark = folder / f"{rule}_{tile}.tsv"
    if took:
        wall, cpu, memory = took
        benchmark.write_text(f"{HEADER}\n{wall}\t-\t{memory}\t\t\t\t\t\t\t{cpu}\n")
    inputs = [f"results/bands/{tile}.tif"] if rule == "enhance" else []
    outputs = [Path(f"results/{'tiles' if rule == 'enhance' else 'bands'}/{tile}.tif")]
    return Job(rule, rule, {"tile": tile}, inputs, outputs, [], Path(), benchmark, causes, 1, 1)


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    jobs = [
        job(tmp_path, "enhance", "c", ["recipe"], "7.5", "1", "100"),
        job(tmp_path, "fetch", "b", None, "1", "0.5", "NA"),
        job(tmp_path, "enhance", "a", [MISSING]),
        job(tmp_path, "enhance", "b", ["recipe"], "4.5", "9", "200"),
        job(tmp_path, "fetch", "a", None),
    ]
    return Graph(jobs, {"fetch": "fetch", "enhance": "enhance", "pack": "pack"}, None)


def test_what_jobs_took_is_summed_up_by_rule(graph: Graph) -> None:
    fetch, enhance = uses_of(graph)
    assert (fetch.rule, fetch.jobs, fetch.not_fresh, fetch.measured) == ("fetch", 2, 0, 1)
    assert (fetch.wall, fetch.cpu, fetch.memory) == (1, 0.5, 0)
    assert (enhance.rule, enhance.jobs, enhance.not_fresh, enhance.measured) == ("enhance", 3, 3, 2)
    assert (enhance.wall, enhance.cpu) == (12, 10)
    assert (enhance.longest, enhance.which) == (7.5, "c")
    assert enhance.memory == 200 * 2**20


def test_reasons_are_told_by_rule(graph: Graph) -> None:
    assert reasons_of(graph) == {
        ("enhance", "not made yet, or deleted"): ["a"],
        ("enhance", "recipe changed"): ["b", "c"],
    }
    assert needs_of(graph) == {"fetch": set(), "enhance": {"fetch"}}


def test_all_that_is_required_is_named_with_version_and_licence() -> None:
    found = {one.name: one for one in software()}
    lines = [line for path in REQUIREMENTS for line in path.read_text().splitlines()]
    pinned = dict(line.split()[0].split("==") for line in lines if "==" in line.split("#")[0])
    assert {"snakemake", "pillow"} <= pinned.keys()
    for name, version in pinned.items():
        assert found[name].version == version
        assert found[name].licence, f"{name} states none"
    assert {"basemake", "Python", "GDAL", "PROJ"} == found.keys() - pinned.keys()
