"""Do downloads and enhancement overlap? A region of 12 tiles from a server of limited rate.

The server's rate a connection is set so that the network alone takes as long as the computing
alone. Prints both, the whole build, and the most that bands took of the disk. Run: `make bench`.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml
from shapely.geometry import box, mapping

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / "scripts"), str(CHECKOUT / "tests")]

from basemake.simulated import simulate  # noqa: E402
from servers import FaultyServer  # noqa: E402 - after the path above

REGION = box(16.0, 42.2, 18.6, 44.1)
PIXEL_SIZE = 30.0  # metres: 3336 px a side
TILES = 12
CONNECTIONS = 4
CORES = 4


def main() -> None:
    """Measure and print; about five minutes on four cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"simulating {TILES} tiles of {PIXEL_SIZE:g} m ...", flush=True)
        items = simulate(REGION, "2025Q3", folder / "archive", 41, PIXEL_SIZE)[:TILES]
        files = {
            asset["href"].removeprefix("."): (folder / "archive" / asset["href"]).read_bytes()
            for item in items
            for asset in item["assets"].values()
        }
        size = sum(map(len, files.values()))
        computing, _ = build(folder, "computing", items, keep_bands=True)
        rate = size / CONNECTIONS / computing
        with FaultyServer(files, rate=rate) as server:
            for item in items:
                for asset in item["assets"].values():
                    asset["href"] = server.url + asset["href"].removeprefix(".")
            network, _ = build(folder, "network", items, keep_bands=True, until="fetch_band")
            both, peak = build(folder, "both", items, keep_bands=False)
        tile = size / TILES
        print(f"{TILES} tiles, {size / 1e6:.0f} MB of bands, {rate / 1e6:.2f} MB/s a connection")
        print(f"computing alone  {computing:7.1f} s  (bands from local files)")
        print(f"network alone    {network:7.1f} s  ({CONNECTIONS} connections)")
        times = both / max(computing, network)
        print(f"both             {both:7.1f} s  = {times:.2f} times the larger")
        print(f"bands on disk    {peak / 1e6:7.1f} MB at most = {peak / tile:.1f} tiles' bands")


def build(
    folder: Path, name: str, items: list[dict], keep_bands: bool, until: str | None = None
) -> tuple[float, int]:
    """Build in a new directory; return wall seconds and the most bytes of bands on disk."""
    directory = folder / name
    directory.mkdir()
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
    (directory / "source.yaml").write_text(yaml.safe_dump(source))
    (directory / "region.geojson").write_text(json.dumps(mapping(REGION)))
    config = {
        "source": "source.yaml",
        "quarter": "2025Q3",
        "regions": {"region": "region.geojson"},
        "keep_bands": keep_bands,
        "threads": {"enhance": 2, "render": 2},
        "pyramid": {"metatile_zoom": 8},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    run(directory, "manifest")
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, on_disk(directory / "results/bands"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    run(directory, "--cores", str(CORES), *(["--until", until] if until else []))
    wall = time.monotonic() - start
    done.set()
    watcher.join()
    return wall, peak


def on_disk(folder: Path) -> int:
    """Return the bytes of a folder's files; some may go while they are counted."""
    total = 0
    for path in folder.rglob("*.tif*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def run(directory: Path, *arguments: str) -> None:
    """Run snakemake, quietly unless it fails."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile")]
    command += ["--configfile", str(directory / "config.yaml"), "--directory", str(directory)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


if __name__ == "__main__":
    main()
