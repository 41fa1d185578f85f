"""Comparing codecs on one's own tiles, and a codec that GDAL does not have."""

import csv
import json

import pytest
from osgeo import gdal

SQUARE = {
    "type": "Polygon",
    "coordinates": [[[17, 43], [17.2, 43], [17.2, 43.2], [17, 43.2], [17, 43]]],
}


@pytest.fixture
def build(new_build):
    made = new_build(source="simulated", quarter="2025Q3", regions={"here": "here.geojson"})
    (made.directory / "here.geojson").write_text(json.dumps(SQUARE))
    return made


def test_codecs_are_compared_whenever_asked_and_nothing_else_is_stale_by_it(build):
    assert "run `snakemake manifest`" in build.run("compare_codecs", check=False)
    build.run("manifest")
    printed = build.run("--cores", "2", "compare_codecs")
    assert "WebP method 0" in printed
    with (build.results / "codecs/codecs.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["tile_codec"] for row in rows} == {"", "webp", "jxl", "zstd", "deflate"}
    assert {row["exact"] for row in rows} == {"yes"}
    assert (build.results / "codecs/codecs.png").exists()
    tiles = [path.name for path in build.results.glob("tiles/*")]
    assert len(tiles) == 1  # the first, made for the purpose
    assert build.planned("compare_codecs") == {"compare_codecs"}
    assert "compare_codecs" not in build.planned()
    build.config["recipe"] = "natural"
    assert build.planned("compare_codecs") == {"enhance_tile", "compare_codecs"}


def test_jpeg_xl_is_refused_at_the_start_where_gdal_cannot_read_it(build):
    options = gdal.GetDriverByName("GTiff").GetMetadataItem("DMD_CREATIONOPTIONLIST")
    build.config["tile_codec"] = "jxl"
    printed = build.run("manifest", check=False)
    refused = f"tile_codec is 'jxl', which the installed GDAL {gdal.__version__} cannot read"
    assert (refused in printed) is ("<Value>JXL</Value>" not in options)
    assert "Traceback" not in printed
