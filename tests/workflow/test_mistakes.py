"""A user's mistake ends a run with one line that states what to do, and without a traceback."""

import json

import pytest
from runs import preloaded

SQUARE = {"type": "Polygon", "coordinates": [[[18, 43], [19, 43], [19, 44], [18, 44], [18, 43]]]}


@pytest.fixture
def build(new_build):
    made = new_build(source="simulated", quarter="2025Q3", regions={"here": "here.geojson"})
    (made.directory / "here.geojson").write_text(json.dumps(SQUARE))
    return made


def one_line(printed: str) -> str:
    """Return the one line of basemake in `printed`, and check that there is no other."""
    assert "Traceback" not in printed
    lines = [line for line in printed.splitlines() if line.startswith("basemake: ")]
    assert len(lines) == 1, printed
    return lines[0]


def test_without_a_manifest_the_run_says_which_command_makes_it(build):
    line = one_line(build.run("--dry-run", check=False))
    assert "run `snakemake manifest`" in line
    assert one_line(build.run("--cores", "1", "results/tiles/33TYH_0_0.tif", check=False)) == line


def test_a_target_of_no_tile_is_told_which_there_are(scene):
    line = one_line(scene.run("--dry-run", "results/tiles/33TZZ_0_0.tif", check=False))
    assert "33TZZ_0_0 is not a tile of results/manifest.geojson; it has: " in line


def test_a_directory_without_a_config_is_named(build):
    arguments = [*build.snakemake, "--dry-run", "--directory", str(build.directory)]
    done = preloaded().run(arguments, build.variables(), apart=False)
    line = one_line(done.stdout)
    assert done.returncode == 1
    assert f"{build.directory} has no config/config.yaml" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": "l2a"}, ("recipe is 'l2a'", "l2a-optimized")),
        ({"source": "cdsee"}, ("source is 'cdsee'", "cdse")),
        ({"source": "mine.yaml"}, ("mine.yaml", "no file")),
        ({"quater": "2025Q3"}, ("'quater'", "did you mean quarter")),
        ({"quarter": "2025-07"}, ("quarter is '2025-07'", "2025Q3")),
        ({"pyramid": {"quality": 101}}, ("pyramid.quality is 101", "1 to 100")),
        ({"pyramid": {"outputs": ["zip"]}}, ("pyramid.outputs has 'zip'", "pmtiles, mbtiles")),
        ({"regions": {"here": "there.geojson"}}, ("there.geojson", "no such file")),
    ],
)
def test_a_mistake_in_the_config_is_named(build, change, words):
    build.config |= change
    line = one_line(build.run("manifest", check=False))
    assert all(word in line for word in words), line


def test_projected_coordinates_are_named(build):
    square = [[[500000, 5e6], [510000, 5e6], [510000, 5.01e6], [500000, 5e6]]]
    region = {"type": "Polygon", "coordinates": square}
    (build.directory / "here.geojson").write_text(json.dumps(region))
    assert "swapped coordinates are the usual cause" in one_line(build.run("manifest", check=False))


def test_a_region_without_tiles_says_what_was_searched(build, real_data):
    source = {
        "type": "catalog",
        "items": str(real_data / "real_mosaic/items.json"),
        "bands": {"red": "B04", "green": "B03", "blue": "B02"},
        "dn": {"scale": 0.0001, "offset": 0, "nodata": -32768},
        "attribution": "x",
    }
    (build.directory / "source.yaml").write_text(json.dumps(source))
    build.config["source"] = "source.yaml"
    printed = build.run("manifest", check=False)
    assert "no tile covers region 'here'" in printed
    assert "items.json" in printed
    assert "2 items" in printed
    assert "Traceback" not in printed
    assert not (build.results / "manifest.geojson").exists()
