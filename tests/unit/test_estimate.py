"""Estimates from measured or shipped figures, compared with sums made by hand."""

import math
from pathlib import Path

import pytest
import shapely

from basemake.build.layout import Layout
from basemake.build.manifest import Tile
from basemake.demo.grid import footprint, grid_tile
from basemake.engine.graph import read_benchmark
from basemake.forecast.costs import COSTS as SHIPPED
from basemake.forecast.costs import count, ground_area, mean_size, shipped_costs, web_bytes
from basemake.forecast.estimate import (
    SNAKEMAKE,
    Cost,
    Measured,
    Pace,
    Work,
    bands_in_flight,
    estimate_time,
    fit,
    size_of,
)
from basemake.pixels.webtiles import WebTile, metatile_name

COSTS = {
    "fetch_bands": Cost(Pace(1, 0.1), Pace(2, 0.5)),
    "enhance_tile": Cost(Pace(1, 0.2), Pace(1, 0.1)),
    "render_metatile": Cost(Pace(1, 0.3), Pace(1, 0.2)),
    "render_overview": Cost(Pace(1, 0), Pace(2, 0), last=True),
    "pack_pyramid": Cost(Pace(1, 0), Pace(3, 0), last=True),
    "build_preview": Cost(Pace(1, 0), Pace(1, 0), last=True),
}
LAST = ("render_overview", "pack_pyramid", "build_preview")


def work(tiles: int, band: float = 100) -> list[Work]:
    """A region of `tiles`, each with three bands of `band` MB, and as many metatiles."""
    jobs = [Work("fetch_bands", 3 * band, 0)] * tiles
    jobs += [Work("enhance_tile", 100, 4), Work("render_metatile", 10, 2, "r")] * tiles
    return jobs + [Work(rule, 1, 1, "r") for rule in LAST]


@pytest.mark.parametrize(
    ("band", "cores", "bound_by"), [(100, 4, "network"), (1, 1, "CPU"), (40, 4, "network")]
)
def test_downloads_and_computing_overlap(band, cores, bound_by):
    """A run takes little more than the slower of both alone, and less than one after the other."""
    time = estimate_time(work(30, band), COSTS, cores, downloads_at_a_time=4)
    assert time.bound_by == bound_by
    slower, faster = sorted((time.network, time.compute), reverse=True)
    snakemake = SNAKEMAKE[0] + len(work(30)) * SNAKEMAKE[1]
    assert slower < time.wall - snakemake < min(slower + faster, 1.1 * slower)


def test_the_bound_takes_longer_when_there_is_more_of_it():
    def wall(band: float, cores: int, at_a_time: int = 4) -> float:
        return estimate_time(work(30, band), COSTS, cores, at_a_time).wall

    assert wall(200, 4) == pytest.approx(2 * wall(100, 4), rel=0.1)
    assert wall(100, 4, at_a_time=8) == pytest.approx(wall(100, 4) / 2, rel=0.2)
    assert wall(100, 8) == pytest.approx(wall(100, 4), rel=0.1), "more cores download no faster"
    assert wall(1, 1) > 1.1 * wall(1, 4)


def test_jobs_hold_no_more_cores_than_there_are():
    jobs = [Work("enhance_tile", 100, 4)] * 10
    assert estimate_time(jobs, COSTS, cores=1, downloads_at_a_time=4).compute == pytest.approx(
        10 * 11
    )
    assert estimate_time(jobs, COSTS, cores=4, downloads_at_a_time=4).compute == pytest.approx(
        10 * 11
    )
    assert estimate_time(jobs, COSTS, cores=8, downloads_at_a_time=4).compute == pytest.approx(
        10 * 11 / 2
    )


def test_cpu_time_is_the_sum_over_all_jobs():
    time = estimate_time(work(10), COSTS, cores=4, downloads_at_a_time=4)
    assert time.cpu == pytest.approx(10 * 31 + 10 * 21 + 10 * 4 + 3)


def test_the_last_jobs_of_regions_run_in_parallel():
    last = [Work(rule, 1, 1, region) for rule in LAST for region in "abcdef"]
    one, four = (estimate_time(last, COSTS, cores, 4).compute for cores in (1, 4))
    assert (one, four) == (6 * 6, 6 * 6 / 4)
    assert estimate_time(last[:: len(LAST)], COSTS, 64, 4).compute >= 2


def test_nothing_to_do_takes_no_time():
    assert estimate_time([], COSTS, 4, 4) == (0, 0, 0, 0)


def test_more_cores_never_take_longer():
    costs = shipped_costs(4, remote=True)
    walls = [estimate_time(work(20), costs, cores, 4).wall for cores in (1, 2, 4, 8, 64)]
    assert walls == sorted(walls, reverse=True)


def test_shipped_network_is_a_line_of_100_mbit_whatever_the_connections():
    for connections in (1, 4, 10):
        cost = shipped_costs(connections, remote=True)["fetch_bands"].wall
        assert cost.per_unit / connections == pytest.approx(1 / 12.5)  # seconds a MB
    assert shipped_costs(4, remote=False)["fetch_bands"].wall.per_unit < 0.01


def test_full_tiles_as_shipped_agree_with_the_published_benchmarks():
    """85 tiles are 38 GB, an hour at 100 Mbit/s (README); a full tile takes 9 to 10 s of CPU."""
    assert SHIPPED["enhance_tile"].cost.cpu.of(100.16) == pytest.approx(9.8, abs=1)
    jobs = [Work("fetch_bands", 450, 0)] * 85 + [Work("enhance_tile", 100.16, 4)] * 85
    time = estimate_time(jobs, shipped_costs(4, remote=True), 4, 4)
    assert 45 * 60 < time.wall < 70 * 60


def test_fit_takes_the_median_pace_of_what_was_done():
    measured = [Measured(10, 3, 2), Measured(10, 3.2, 2.1), Measured(10, 30, 20)]
    cost = fit(Cost(Pace(1, 9), Pace(0.5, 9)), measured)
    assert cost.cpu.of(10) == pytest.approx(3.2)
    assert cost.wall.of(10) == pytest.approx(2.1)
    assert cost.wall.of(20) == pytest.approx(0.5 + 20 * 0.16)
    assert fit(COSTS["fetch_bands"], []) is COSTS["fetch_bands"]


def test_fit_of_jobs_without_units_is_their_median():
    cost = fit(Cost(Pace(1, 0), Pace(1, 0)), [Measured(0, s, 2 * s) for s in (3, 4, 50)])
    assert (cost.cpu.of(0), cost.wall.of(0)) == (4, 8)


def test_fit_of_jobs_quicker_than_a_start_is_not_negative():
    cost = fit(Cost(Pace(1, 1), Pace(1, 1)), [Measured(5, 0.2, 0.3), Measured(10, 0.1, 0.2)])
    assert cost.cpu.per_unit >= 0
    assert cost.wall.of(10) < 1


def test_bands_in_flight():
    busy = estimate_time(work(50), COSTS, 4, 4)
    assert bands_in_flight(50, busy, cores=4, threads=4, downloads_at_a_time=4) == 1 + 4
    slow = busy._replace(network=10.0, compute=40.0)
    assert bands_in_flight(50, slow, 4, 4, 4) == 8, "some wait for cores"
    nearly = busy._replace(network=39.0, compute=40.0)
    assert bands_in_flight(50, nearly, 4, 4, 4) == 5 + math.ceil(50 / 40)
    assert bands_in_flight(2, slow, 4, 4, 4) == 2


@pytest.mark.parametrize("tile", ["33TWM_0_0", "60WWS_0_0", "01KAB_0_0"])
def test_ground_area_of_a_tile_is_its_side_squared(tile):
    assert ground_area(footprint(grid_tile(tile))) == pytest.approx(100_080**2, rel=0.01)
    assert ground_area(shapely.Polygon()) == 0


def test_web_bytes_rise_with_quality():
    for image_format in ("webp", "jpeg"):
        sizes = [web_bytes(image_format, quality) for quality in (1, 40, 80, 90, 100)]
        assert sizes == sorted(sizes)
    assert web_bytes("webp", "lossless") > web_bytes("webp", 100)
    assert web_bytes("png", None) > web_bytes("jpeg", 80)


def test_read_benchmark(tmp_path: Path):
    path = tmp_path / "a.tsv"
    header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"
    path.write_text(f"{header}\n1.33\t0:00:01\t91.31\t399\t37\t44\t0.00\t0.09\t16.48\t0.43\n")
    assert read_benchmark(path) == (0.43, 1.33, round(91.31 * 2**20))
    path.write_text(f"{header}\n0.30\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\t0.00\n")
    assert read_benchmark(path) == (0.30, 0.30, 0), "it ended before it was looked at"
    for text in ("", header, "s\tcpu_time\nNA\tNA\n", "\0"):
        path.write_text(text)
        assert read_benchmark(path) is None
    assert read_benchmark(tmp_path / "none.tsv") is None


def test_size_of(tmp_path: Path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/1").write_bytes(b"12")
    (tmp_path / "a/b/2").write_bytes(b"345")
    assert size_of(tmp_path / "a") == 5
    assert size_of(tmp_path / "a/1") == 2
    assert size_of(tmp_path / "none") == 0


def test_mean_size_is_of_the_files_that_exist(tmp_path: Path):
    for name, size in (("a", 30), ("b", 70)):
        (tmp_path / name).write_bytes(bytes(size))
    files = {tmp_path / "a": 1.0, tmp_path / "b": 3.0, tmp_path / "gone": 5.0}
    assert mean_size(files) == (25, 2)
    assert mean_size({tmp_path / "gone": 5.0}) == (None, 0)


def test_root_of_a_whole_metatile_has_the_pixels_of_a_web_tile():
    metatile = WebTile(9, 270, 180)
    footprint = shapely.box(5, 40, 15, 50)
    tiles = {"a": Tile("item", None, {}, {}, "a", 32632, 10, ["here"], footprint)}
    config = {
        "pyramid": {
            **{"min_zoom": 0, "max_zoom": 13, "metatile_zoom": 9, "tile_size": 256},
            **{"clip": True, "background": "none", "format": "webp", "quality": 80},
        },
        "tile_codec": "webp",
    }
    quantities = count(
        Layout(tiles, {"here": shapely.box(8, 45, 12, 48)}, config["pyramid"]), config
    )
    assert quantities.metatile_pixels["here", metatile_name(metatile)] == pytest.approx(4096**2)
    assert quantities.root_pixels("here", metatile_name(metatile)) == pytest.approx(256**2)
