"""Do downloads and enhancement overlap? A region from a server of limited rate.

The server's rate a connection is set so that the network alone takes as long as the computing
alone. Measured are both, the whole build, and the most that bands took of the disk.
"""

import json
from pathlib import Path

from shapely.geometry import box

from basemake.build.quarter import Quarter
from basemake.demo.simulated import simulate
from benchmarks.builds import Build, watching
from benchmarks.measure import Usage
from benchmarks.report import Check, Measured, Section
from servers import FaultyServer

REGION = box(16.0, 42.2, 18.6, 44.1)
CONNECTIONS = 4
CORES = 4


def bench_overlap(folder: Path, count: int, pixel_size: float) -> Section:
    """Measure in `folder` with `count` tiles (at most 12); about a minute on four cores."""
    archive = folder / "archive"
    items = simulate(REGION, Quarter(2025, 3), archive, 41, pixel_size)[:count]
    files = {
        asset["href"].removeprefix("."): (archive / asset["href"]).read_bytes()
        for item in items
        for asset in item["assets"].values()
    }
    size = sum(map(len, files.values()))
    computing, _ = _build(folder, "computing", items, keep_bands=True)
    with FaultyServer(files, rate=size / CONNECTIONS / computing.wall) as server:
        for item in items:
            for asset in item["assets"].values():
                asset["href"] = server.url + asset["href"].removeprefix(".")
        network, _ = _build(folder, "network", items, keep_bands=True, until="fetch_bands")
        both, peak = _build(folder, "both", items, keep_bands=False)
    tile = size / count
    return Section(
        f"Downloads and computing side by side, {count} tiles of {pixel_size:g} m",
        [
            Measured("computing alone, bands from local files", [computing], own=True),
            Measured(f"network alone, {CONNECTIONS} connections", [network], own=True),
            Measured("both", [both], size / 1e6, own=True),
        ],
        [
            Check("both, of the longer alone", both.wall / max(computing.wall, network.wall), 1.2),
            Check("bands on disk at most, in tiles", peak / tile, 4),
        ],
        ["keep_bands: false. MB: all bands."],
    )


def _build(
    folder: Path, name: str, items: list[dict], keep_bands: bool, until: str | None = None
) -> tuple[Usage, int]:
    """Build in a new directory; return the usage and the peak bytes of bands on disk."""
    catalog = folder / "archive" / f"{name}.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    hosts = sorted({a["href"].split("/")[2] for i in items for a in i["assets"].values()
                    if a["href"].startswith("http")})  # fmt: skip
    source = {
        "type": "catalog",
        "items": str(catalog),
        "bands": {"red": "B04", "green": "B03", "blue": "B02"},
        "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768},
        "attribution": "Simulated imagery (basemake)",
        "hosts": hosts,
        "limits": {"connections": CONNECTIONS, "requests_per_minute": 60000},
    }
    config = {"keep_bands": keep_bands, "threads": {"enhance": 2, "render": 2}}
    build = Build(folder / name, REGION, source, pyramid={"metatile_zoom": 8}, **config)
    build.snakemake("manifest")
    with watching(build.directory / "results/bands") as peak:
        usage = build.snakemake("--cores", CORES, *(["--until", until] if until else []))
    return usage, peak[0]
