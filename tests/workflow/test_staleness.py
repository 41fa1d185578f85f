"""The table in docs/rebuilds.md: each kind of change runs exactly the jobs that it makes stale.

Each test changes a build. The jobs that a dry-run lists, and those that a run then executes, are
compared with a list made from the geometry alone, and all outputs with a build from nothing.

Here: what changes nothing, and regions; items and settings are in files of their own.
"""

import json
import shutil

import numpy as np
import shapely
import yaml
from expected import (
    all_of_pyramid,
    enhancing,
    fetching,
    following_archive,
    footprints,
    metatiles,
    mosaicking,
    packing,
    paging,
    rendering,
    tiles_of,
)
from runs import BY_TIME, CHECKOUT, EDGE, OUTLINE, SMALLER, SOURCE, TIP, with_catalog
from webmap import canvas

from basemake.build.reasons import FOLLOWS
from basemake.pixels.webtiles import RADIUS, geometry_to_mercator, metatile_of, resolution


def test_base_has_two_zones_and_enough_tiles(base):
    assert len(base.files("tiles/*")) == 7
    assert len(metatiles(base)) == 10
    assert len(base.files("mosaic/first_326??.vrt")) == 2


# -- Nothing is stale ------------------------------------------------------------------------------


def test_nothing_changed(scene):
    scene.rebuild([])


def test_manifest_touched_reformatted_or_copied(scene):
    manifest = scene.results / "manifest.geojson"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=4))
    shutil.copy(manifest, scene.directory / "copy.geojson")
    shutil.copy(scene.directory / "copy.geojson", manifest)
    assert scene.jobs("--dry-run", *BY_TIME) == set()
    scene.rebuild([])


def test_settings_that_change_no_pixel(scene):
    scene.config |= {"threads": {"enhance": 1, "render": 1}, "gdal_cache_mb": 32}
    scene.config["price_per_vcpu_hour"] = 1
    limits = {"connections": 2, "patience_seconds": 30}
    (scene.directory / "source.yaml").write_text(yaml.safe_dump({**SOURCE, "limits": limits}))
    assert scene.jobs("--dry-run", "--resources", "connections=1") == set()


def test_recipe_of_another_name_with_comments(scene, from_nothing):
    text = (CHECKOUT / "config/recipes/l2a-optimized.yaml").read_text()
    (scene.directory / "mine.yaml").write_text(text + "# the same by another name\n")
    scene.config["recipe"] = str(scene.directory / "mine.yaml")
    scene.rebuild({"pack_pyramid first", *following_archive()})  # which tell the name
    assert scene.lasting() == from_nothing(scene)


def test_band_deleted_while_its_tile_is_fresh(scene):
    shutil.rmtree(scene.results / "bands" / EDGE)
    scene.rebuild([])


def test_item_moved_to_another_place(scene):
    items = scene.items
    moved = next(item for item in items if item["id"].endswith(EDGE))
    (scene.directory / "catalog" / moved["id"]).rename(scene.directory / "catalog/elsewhere")
    for asset in moved["assets"].values():
        asset["href"] = asset["href"].replace(moved["id"], "elsewhere")
    scene.items = items
    scene.rebuild([])
    assert "elsewhere" in (scene.results / "manifest.geojson").read_text()


# -- Regions ---------------------------------------------------------------------------------------


def test_polygon_shrinks_and_grows_inside_the_same_tiles(base, scene, from_nothing):
    before = metatiles(scene)
    scene.draw("first", SMALLER)
    after = metatiles(scene)
    changed = {
        name for name in before if not before[name].symmetric_difference(after[name]).area < 1
    }
    assert 0 < len(changed) < 5
    scene.rebuild(rendering(changed) | packing())
    assert scene.lasting() == from_nothing(scene)
    scene.draw("first", OUTLINE)
    scene.rebuild(rendering(changed) | packing())
    assert scene.lasting() == base.lasting()


def test_polygon_whose_ring_begins_elsewhere_and_runs_the_other_way(scene, from_nothing):
    scene.config["pyramid"]["outputs"] = ["cog"]
    scene.build(cores=4)
    scene.draw("first", (OUTLINE[3:] + OUTLINE[:3])[::-1])
    scene.rebuild([])
    assert scene.lasting() == from_nothing(scene)


def test_polygon_of_an_unclipped_map_changes_only_the_page(base, scene, from_nothing):
    scene.config["pyramid"]["clip"] = False
    scene.build(cores=4)
    scene.draw("first", SMALLER)
    scene.rebuild(paging())
    assert scene.lasting() == from_nothing(scene)


def test_second_region_overlaps_the_first(scene, from_nothing):
    scene.config["regions"]["other"] = "other.geojson"
    new = tiles_of(scene, "other") - tiles_of(scene, "first")
    assert new
    shared = tiles_of(scene, "other")
    scene.rebuild(
        fetching(new)
        | enhancing(new)
        | mosaicking(shared, "other")
        | rendering(metatiles(scene, "other"), "other")
        | packing("other")
    )
    assert scene.lasting() == from_nothing(scene)


def test_clipping_switched_off(scene):
    """Metatiles wholly inside the polygon stay."""
    inside = {
        name
        for name, part in metatiles(scene).items()
        if part.equals(shapely.box(*metatile_of(name).bounds))
    }
    assert inside
    scene.config["pyramid"]["clip"] = False
    jobs = scene.jobs("--dry-run")
    assert jobs >= rendering({*metatiles(scene)} - inside) | packing()
    others = jobs - with_catalog(packing())
    assert {job.split()[0] for job in others} == {"render_metatile"}
    assert not jobs & rendering(inside)


def test_overlap(scene):
    """Only metatiles in which several tiles may show; footprints count as right to 1 km."""
    scene.config["pyramid"]["overlap"] = "top"
    places, counts = [*footprints(scene).values()], []
    for away in (0, 3000):
        names = {
            name
            for name, part in metatiles(scene).items()
            if sum(part.distance(place) <= away for place in places) > 1
        }
        counts.append(with_catalog(rendering(names) | packing()))
    assert counts[0] <= scene.jobs("--dry-run") <= counts[1] < with_catalog(all_of_pyramid(scene))


def faded(scene, km: float, *edges: shapely.Geometry) -> set[str]:
    """The metatiles in which imagery fades over so many km along edges (Mercator metres)."""
    near = set()
    for name, part in metatiles(scene).items():
        box = shapely.box(*metatile_of(name).bounds)
        # Weights are interpolated between points of a grid, here 4 pixels of the top zoom.
        width = 1000 * km * np.cosh(box.bounds[3] / RADIUS) + 4 * resolution(10, 256)
        if any(box.distance(edge) < width for edge in edges) and part.area:
            near.add(name)
    return near


def test_background_and_fade(scene, from_nothing):
    def outline(corners) -> shapely.Geometry:
        return geometry_to_mercator(shapely.Polygon(corners))

    scene.config["pyramid"]["background"] = "#12304a"
    assert scene.jobs("--cores", "4") == with_catalog(all_of_pyramid(scene))
    scene.config["pyramid"] |= {"background": "#12304A", "fade_km": 0.5}
    stale = faded(scene, 0.5, outline(OUTLINE).boundary)
    assert len(stale) < len(metatiles(scene))
    assert scene.jobs("--cores", "4") == with_catalog(rendering(stale) | packing())

    scene.draw("first", SMALLER)
    changed = outline(OUTLINE).symmetric_difference(outline(SMALLER))
    scene.rebuild(rendering(faded(scene, 0.5, changed)) | packing())
    assert scene.lasting() == from_nothing(scene)
    archive = scene.results / "pyramid/first.pmtiles"
    colours = canvas(archive, 10)[0]
    assert (colours[colours[..., 3] > 0] == [0x12, 0x30, 0x4A, 255]).all(axis=-1).any()
    assert '"ground": "#12304a"' in (scene.results / "preview/first.html").read_text()


def test_forced_jobs_are_done_beside_stale_ones_and_each_tells_why(scene):
    (scene.results / f"tiles/{EDGE}.tif").unlink()
    lines = scene.run("--dry-run", "--forcerun", "build_preview").splitlines()
    reasons = dict(line.split(": ") for line in lines if ": " in line)
    assert reasons[f"enhance_tile {EDGE}"] == "not made yet, or deleted"
    assert reasons[f"render_metatile first {TIP}"] == FOLLOWS
    assert reasons["build_preview first"] == "asked for by an option"
