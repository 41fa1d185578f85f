"""Faults in a job of a real run, and the smallest build in which each can be tested."""

import json
import signal
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import shapely
from runs import EDGE, NORTH, SOURCE, WORLD, Scene, lay_out, opened_for_update

from basemake.build.quarter import Quarter
from basemake.demo.simulated import simulate

INJECTOR = Path(__file__).with_name("injector")
# Outputs, in the order in which the scripts make them, of rules that have more than one.
OUTPUTS = {"build_zone_vrt": 2, "render_metatile": 2, "build_preview": 2, "build_web": 5}
RULES = (
    "fetch_bands",
    "enhance_tile",
    "build_zone_vrt",
    "build_vrt",
    "render_metatile",
    "render_overview",
    "pack_pyramid",
    "export_mbtiles",
    "export_folder",
    "export_cog",
    "build_preview",
    "build_web",
    "build_index",
    "build_stac",
)
# A job opens its log, gives its last output its name, writes a record of its outputs, and ends.
MOMENTS = ("before", "middle", "recording", "after")
KINDS = ("exception", "kill", "full disk", "kill all")
JOINING = "34TCP_0_0"  # a tile that shows in the small region but is not in its catalog


@dataclass(frozen=True)
class Fault:
    """What happens to the job that is the `number`th of `rule` to reach `moment`, one of MOMENTS.

    `rule` is one of RULES or "any". `kind` is one of KINDS: the job raises an exception, gets
    SIGKILL, can write no more bytes, or all processes of the run get SIGKILL.
    """

    rule: str
    moment: str
    kind: str
    number: int = 1

    def is_possible(self) -> bool:
        """Tell whether such a fault makes a job fail: a full disk does if more is to be written."""
        if self.kind != "full disk":
            return True
        return self.moment in ("before", "recording") or (
            self.moment == "middle" and self.rule in OUTPUTS
        )

    def strikes(self, scene: Scene, *arguments: str) -> bool:
        """Run snakemake under the fault; return whether it struck a job, and then failed."""
        marker = Path(tempfile.mkdtemp(dir=scene.directory.parent)) / "job"
        struck = Path(f"{marker}.{self.number}")
        # The disk must be full before the last output is written, or nothing would fail.
        outputs = {} if self.kind == "full disk" else OUTPUTS
        fault = {**asdict(self), "marker": str(marker), "outputs": outputs}
        environment = {"FAULT": json.dumps(fault), "PYTHONPATH": str(INJECTOR)}
        running = replace(scene, environment=environment).start(*arguments)
        printed, _ = running.communicate()
        if not struck.exists():
            return False
        if self.kind == "kill all":
            assert running.returncode == -signal.SIGKILL, printed
        assert running.returncode, f"{self} struck, and the run succeeded:\n{printed}"
        return True


def small_region(directory: Path) -> Scene:
    """Return a Scene in an empty directory: 2 tiles in 2 UTM zones, 2 metatiles, all outputs.

    A third tile, JOINING, would show in the region, but the catalog does not have it. It has
    another quarter, of all three, for `fill`.
    """
    scene = lay_out(directory, NORTH)
    scene.drop(JOINING)
    add_spring(scene)
    scene.config["pyramid"] |= {"min_zoom": 7, "outputs": ["mbtiles", "folder", "cog"]}
    return scene


def join(scene: Scene) -> None:
    """Add the tile JOINING to the catalog."""
    items = simulate(shapely.Polygon(NORTH), Quarter(2025, 3), scene.directory / "catalog", **WORLD)
    scene.items += [item for item in items if item["id"].endswith(JOINING)]


def add_spring(scene: Scene) -> None:
    """Add another quarter to the catalog, and a hole in the tile EDGE that it can fill."""
    folder = scene.directory / "catalog"
    items = scene.items + simulate(shapely.Polygon(NORTH), Quarter(2025, 2), folder, **WORLD)
    for item in items:
        for asset in item["assets"].values():
            asset.pop("file:checksum", None)
    item = next(item for item in items if item["id"].endswith(f"Q3_{EDGE}"))
    for band in SOURCE["bands"].values():
        asset = item["assets"][band]
        dataset = opened_for_update(folder / asset["href"])
        dn = dataset.ReadAsArray()
        dn[20:150, 20:120] = -32768
        dataset.GetRasterBand(1).WriteArray(dn)
        del dataset
        asset["file:size"] = (folder / asset["href"]).stat().st_size
    scene.items = items


def fails(scene: Scene, *arguments: str) -> None:
    """Run snakemake, which must fail."""
    running = scene.start(*arguments)
    printed, _ = running.communicate()
    assert running.returncode, printed


def differences(made: dict[str, bytes], fresh: dict[str, bytes]) -> set[str]:
    """Return the paths that are missing in one or have different content."""
    return {path for path in made.keys() | fresh.keys() if made.get(path) != fresh.get(path)}
