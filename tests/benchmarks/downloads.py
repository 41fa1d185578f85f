"""What is fetched: bytes, requests and seconds, for a city, a coast and a region of 85 tiles.

A server on loopback has the bands of all tiles: three files, whose georeference is that of each
tile. It answers after a latency, and limits each connection. Ours is the real workflow up to its
bands, beside the bands whole, and beside GDAL's /vsicurl reading the same blocks of the same
images, with as many connections.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from basemake.demo.grid import TILE_SIDE, GridTile, footprint, grid_tile, tiles_covering, to_lonlat
from benchmarks.builds import Build
from benchmarks.measure import CORES, TESTS, Usage, job, prepare, run
from benchmarks.objects import BANDS, objects_of
from benchmarks.report import Check, Measured, Section
from servers import FaultyServer

CENTRE, KILOMETRES = (14.7, 48.0), 382  # of a circle of 85 tiles
QUICK_KILOMETRES = 120
FULL_SIDE = 10_008  # pixels
TILE = "33UWP_0_0"  # of which one has the city and the coast
CONNECTIONS = 4
RATE, LATENCY = 12.5e6 / CONNECTIONS, 0.02  # bytes a second of a connection: 100 Mbit/s; seconds
LIMITS = {"connections": CONNECTIONS, "requests_per_minute": 600}  # those of cdse
COMMANDS = TESTS.parent / "scripts/commands"


@dataclass(frozen=True)
class Case:
    """A map: its region (degrees) and top zoom, and what its bands may take of all their bytes.

    `requests` are those that a band may take.
    """

    name: str
    region: BaseGeometry
    max_zoom: int | str
    percent: float
    requests: int


@dataclass(frozen=True)
class Traffic:
    """What a server sent: bytes, requests, and the most requests for one file."""

    sent: int
    requests: int
    most: int

    @classmethod
    def of(cls, server: FaultyServer, work: Callable[[], Usage]) -> tuple[Usage, "Traffic"]:
        """Return the usage of `work`, and what it made the server send."""
        server.log.clear()
        usage, asked = work(), server.asked()
        most = max(Counter(one.path for one in asked).values(), default=0)
        return usage, cls(sum(one.sent for one in asked), len(asked), most)


def bench_downloads(folder: Path, side: int, quick: bool) -> Section:
    """Measure in `folder` with bands of `side` pixels; about 8 minutes at full size."""
    objects = folder / "objects"
    objects.mkdir()
    made_of = prepare("inputs", "object_bands", folder=objects, side=side).strip()
    region = circle(QUICK_KILOMETRES if quick else KILOMETRES)
    tiles = tiles_covering(region)
    cases = [
        Case("a city of 20 km", city(), "auto", 12, 6),
        Case("a coast of 100 km", coast(), "auto", 35, 11),
        Case(f"{len(tiles)} tiles to zoom 10", region, 10, 3, 6),
        Case(f"{len(tiles)} tiles to zoom 8", region, 8, 0.3, 6),
    ]
    rows, checks = [], []
    with FaultyServer(rate=RATE, latency=LATENCY) as server:
        for tile in tiles:
            server.files |= objects_of(tile, objects, side)
        sizes = {path: len(content) for path, content in server.files.items()}
        source = source_of(folder / "items.json", tiles, side, server.url, sizes)
        for number, case in enumerate(cases):
            build = Build(folder / f"case{number}", case.region, source, pyramid=_to(case.max_zoom))
            measured, found = _measure(case, build, server)
            rows += measured
            checks += found
            if case is cases[1]:
                rows.append(_whole(folder / "whole", source, server))
        drawn, found = _draft(folder / "draft", region, source, server)
    whole = sum(sizes.values())
    rows.append(Measured(f"{len(tiles)} tiles: fetch: whole (not run)", megabytes=whole / 1e6))
    return Section(
        f"Downloads, bands of {side} x {side} px",
        [*rows, drawn],
        [*checks, *found],
        [
            f"The server answers after {1000 * LATENCY:g} ms, and gives each of {CONNECTIONS}"
            f" connections {8 * RATE / 1e6:g} Mbit/s. Bands: {made_of}. MB are those that came."
            " basemake: snakemake --until fetch_bands, with all of its processes, and as many"
            " requests a minute as it grants the Copernicus mirror (600). The bytes of the whole"
            " bands of all tiles follow from their sizes.",
            "A city and a coast are in one tile, so that one connection fetches them.",
        ],
    )


def _measure(case: Case, build: Build, server: FaultyServer) -> tuple[list[Measured], list[Check]]:
    """Fetch the bands of a case, and read the same by GDAL."""
    build.snakemake("manifest")
    told = planned(build)["download"]["bytes"]
    usage, ours = Traffic.of(
        server, lambda: build.snakemake("--until", "fetch_bands", "--cores", CORES)
    )
    windows = build.directory / "windows.json"
    windows.write_text(json.dumps(list(_windows(build.directory, server.url))))
    command = job("vsicurl", windows=windows, connections=CONNECTIONS)
    usage_of_gdal, gdal = Traffic.of(server, lambda: run(command)[0])
    whole = sum(len(server.files[path]) for path in _paths(build.directory))
    rows = [
        _row(f"{case.name}: basemake", usage, ours, own=True),
        _row(f"{case.name}: GDAL /vsicurl, the same blocks", usage_of_gdal, gdal),
    ]
    return rows, [
        Check(f"{case.name}: of the whole bands", 100 * ours.sent / whole, case.percent, "%"),
        Check(f"{case.name}: requests a band, at most", ours.most, case.requests),
        Check(
            f"{case.name}: bytes by the plan ({told / 1e6:.1f} MB), off by",
            100 * abs(told / ours.sent - 1),
            25,
            "%",
        ),
    ]


def _whole(folder: Path, source: dict, server: FaultyServer) -> Measured:
    """Fetch the bands of the city's tile whole."""
    build = Build(folder, city(), source, pyramid=_to("auto"), fetch="whole")
    build.snakemake("manifest")
    usage, traffic = Traffic.of(
        server, lambda: build.snakemake("--until", "fetch_bands", "--cores", CORES)
    )
    for path in (folder / "results/bands").rglob("*.tif"):
        path.unlink()
    return _row("a city or a coast: fetch: whole", usage, traffic, own=True)


def _draft(
    folder: Path, region: BaseGeometry, source: dict, server: FaultyServer
) -> tuple[Measured, list[Check]]:
    """Make the draft of a region."""
    build = Build(folder, region, source, pyramid=_to("auto"))
    command = [sys.executable, COMMANDS / "draft.py", *build.options, "--cores", CORES]
    usage, traffic = Traffic.of(server, lambda: run(command, build.directory)[0])
    tiles = len(list((folder / "draft/results/tiles").iterdir()))
    whole = sum(map(len, server.files.values()))
    return _row(f"{tiles} tiles: make draft", usage, traffic, own=True), [
        Check("make draft: of the whole bands", 100 * traffic.sent / whole, 0.2, "%"),
        Check("make draft: wall", usage.wall, 60, "s"),
    ]


def _row(name: str, usage: Usage, traffic: Traffic, own: bool = False) -> Measured:
    return Measured(name, [usage], traffic.sent / 1e6, requests=traffic.requests, own=own)


def planned(build: Build) -> dict[str, Any]:
    """Return what `make plan` tells of a build, as JSON."""
    command = [sys.executable, COMMANDS / "plan.py", *build.options, "--json"]
    return dict(json.loads(run(command, build.directory)[1]))


def _to(max_zoom: int | str) -> dict[str, Any]:
    return {"max_zoom": max_zoom, "metatile_zoom": "auto"}


def _paths(directory: Path) -> list[str]:
    """Return the paths on the server of all bands of a build, tile by tile."""
    features = json.loads((directory / "results/manifest.geojson").read_text())["features"]
    return [f"/{feature['id']}/{band}.tif" for feature in features for band in BANDS]


def _windows(directory: Path, url: str) -> Iterable[tuple[str, int, list[list[int]]]]:
    """Yield the address of each band of a build, its image, and windows of the fetched blocks.

    A window is [left, top, width, height] in pixels: blocks side by side.
    """
    for path in _paths(directory):
        record = directory / f"results/records/bands{path}.json"
        known = json.loads(record.read_text())["known"]
        yield (
            url + path,
            known["level"],
            windows_of(known["images"][known["level"]], known["blocks"]),
        )


def windows_of(image: list[int], runs: list[list[int]]) -> list[list[int]]:
    """Return the windows of runs of blocks, of an image [width, height, width, height of block]."""
    width, height, block_width, block_height = image
    across, windows = -(-width // block_width), []
    for first, last in runs:
        for row in range(first // across, last // across + 1):
            left = max(first - row * across, 0) * block_width
            right = min((min(last - row * across, across - 1) + 1) * block_width, width)
            top, bottom = row * block_height, min((row + 1) * block_height, height)
            windows.append([left, top, right - left, bottom - top])
    return windows


def source_of(
    items: Path, tiles: list[GridTile], side: int, url: str, sizes: Mapping[str, int], **limits: int
) -> dict[str, Any]:
    """Write the items of tiles, whose bands have `sizes` by path below `url`; return the source."""
    features = [_item(tile, side, url, sizes) for tile in tiles]
    items.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return {
        "type": "catalog",
        "items": str(items),
        "bands": dict(zip(("red", "green", "blue"), BANDS, strict=True)),
        "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768, "dtype": "int16"},
        "attribution": "Contains modified Copernicus Sentinel data",
        "hosts": [url.removeprefix("http://")],
        "limits": LIMITS | limits,
    }


def _item(tile: GridTile, side: int, url: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    paths = {band: f"/{tile.tile}/{band}.tif" for band in BANDS}
    return {
        "type": "Feature",
        "id": f"Sentinel-2_mosaic_2025_Q3_{tile.tile}",
        "geometry": mapping(footprint(tile)),
        "properties": {
            "datetime": "2025-07-01T00:00:00Z",
            "gsd": TILE_SIDE / side,
            "proj:code": f"EPSG:{tile.epsg}",
        },
        "assets": {
            band: {"href": url + path, "file:size": sizes[path]} for band, path in paths.items()
        },
    }


def circle(kilometres: float) -> BaseGeometry:
    """Return a circle around CENTRE, in degrees."""
    lon, lat = CENTRE
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    radius = kilometres / 111.2
    around = lon + radius / np.cos(np.radians(lat)) * np.cos(angles), lat + radius * np.sin(angles)
    return shapely.Polygon(np.column_stack(around))


def city() -> BaseGeometry:
    """Return a square of 20 km in the middle of TILE, in degrees."""
    middle = TILE_SIDE / 2
    return _in_degrees(shapely.Point(middle, middle).buffer(10_000, cap_style="square"))


def coast() -> BaseGeometry:
    """Return a strip of 2 km that crosses TILE at an angle, in degrees."""
    ends = [(3_000, 20_000), (TILE_SIDE - 3_000, 75_000)]
    return _in_degrees(shapely.LineString(ends).buffer(1_000))


def _in_degrees(shape: BaseGeometry) -> BaseGeometry:
    """Return a shape in metres from the upper-left corner of TILE, downwards, in degrees."""
    tile = grid_tile(TILE)

    def placed(at: np.ndarray) -> np.ndarray:
        return np.column_stack(to_lonlat(tile.epsg, tile.ulx + at[:, 0], tile.uly - at[:, 1]))

    return shapely.transform(shapely.segmentize(shape, 2_000), placed)
