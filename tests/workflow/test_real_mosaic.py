"""Two real tiles (Slovenia and Croatia, 120 m) from a local catalog, by a real snakemake run."""

import json

import numpy as np
import pytest
import yaml
from osgeo import gdal, osr
from webmap import canvas, metadata, pixel_centres

from servers import FaultyServer

# Around Zagreb and northwards, over both tiles.
ZAGREB = [
    [15.4, 45.6], [16.0, 45.45], [16.35, 45.8], [16.2, 46.5], [15.6, 46.7], [15.1, 46.2],
    [15.4, 45.6],
]  # fmt: skip
SOURCE = {
    "type": "catalog",
    "bands": {"red": "B04", "green": "B03", "blue": "B02"},
    "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768},
    "attribution": "Contains modified Copernicus Sentinel data {year}",
}


@pytest.fixture(scope="module")
def zagreb(real_data, new_build):
    build = new_build(quarter="2023Q3", source="source.yaml", regions={"zagreb": "zagreb.geojson"})
    items = real_data / "real_mosaic/items.json"
    region = {"type": "Polygon", "coordinates": [ZAGREB]}
    (build.directory / "source.yaml").write_text(yaml.safe_dump({**SOURCE, "items": str(items)}))
    (build.directory / "zagreb.geojson").write_text(json.dumps(region))
    # Lossless at the top, so that web tiles can be held against the tiles.
    build.config["pyramid"] = {"quality": "lossless"}
    build.build(cores=4)
    return build


def l2a_optimized(dn: np.ndarray) -> np.ndarray:
    """The published formula in float64: DN (3, ...) to 0..255, unrounded."""
    middle, gamma, offset, factor = 0.13 / 3.0, 1.8, 0.01, 1.2
    a = np.clip(dn * 0.0001 / 3.0, 0, 1)
    s = a * (a * middle - 1) / (a * (2 * middle - 1) - middle)
    low = offset**gamma
    s = ((s + offset) ** gamma - low) / ((1 + offset) ** gamma - low)
    c = np.clip(s.mean(axis=0) * (1 - factor) + s * factor, 0, 1)
    return 255 * np.where(c <= 0.0031308, 12.92 * c, 1.055 * c**0.41666666666 - 0.055)


@pytest.mark.parametrize("tile", ["33TWL_0_0", "33TWM_0_0"])
def test_enhanced_tile_is_the_formula_in_every_pixel(zagreb, real_data, tile):
    folder = real_data / f"real_mosaic/Sentinel-2_mosaic_2023_Q3_{tile}"
    bands = [gdal.Open(str(folder / f"{band}.tif")) for band in ("B04", "B03", "B02")]
    dn = np.stack([band.ReadAsArray() for band in bands])
    enhanced = gdal.Open(str(zagreb.results / f"tiles/{tile}.tif"))
    rgba = enhanced.ReadAsArray()
    valid = (dn != -32768).all(axis=0)
    assert (rgba[3] == np.where(valid, 255, 0)).all()
    assert not rgba[:3, ~valid].any()
    expected = np.floor(l2a_optimized(dn.astype(float)) + 0.5)
    assert np.abs(rgba[:3] - expected)[:, valid].max() <= 1
    assert enhanced.GetGeoTransform() == bands[0].GetGeoTransform()
    assert enhanced.GetSpatialRef().IsSame(bands[0].GetSpatialRef())
    about = enhanced.GetMetadata()
    assert about["ITEM"] == f"Sentinel-2_mosaic_2023_Q3_{tile}"
    assert about["ATTRIBUTION"] == "Contains modified Copernicus Sentinel data 2023"


def test_map_shows_the_tiles_pixels_in_place(zagreb):
    """Web tiles of a lossless map, sampled at pixel centres, against the enhanced tiles."""
    archive = zagreb.results / "pyramid/zagreb.pmtiles"
    rgba, corner = canvas(archive, 10)
    lon, lat = pixel_centres(corner, rgba.shape, 10)
    rng = np.random.default_rng(0)
    rows, columns = np.nonzero(rgba[..., 3] == 255)
    pick = rng.choice(len(rows), 4000, replace=False)
    rows, columns = rows[pick], columns[pick]
    tile = gdal.Open(str(zagreb.results / "tiles/33TWM_0_0.tif"))
    expected, inside = bilinear(tile, lon[rows, columns], lat[rows, columns])
    found = rgba[rows, columns, :3].astype(float)
    difference = np.abs(found - expected).max(axis=1)[inside]
    assert inside.sum() > 1000
    # GDAL's kernel is a little wider than a pixel where it shrinks; a shift would cost far more.
    assert np.percentile(difference, 95) <= 6


def bilinear(tile, lon, lat):
    """Sample a tile's colours at points; say which points lie well inside valid pixels."""
    wgs84 = osr.SpatialReference()
    wgs84.ImportFromEPSG(4326)
    wgs84.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    to_tile = osr.CoordinateTransformation(wgs84, tile.GetSpatialRef())
    points = np.array(to_tile.TransformPoints(np.column_stack([lon, lat]).tolist()))
    west, pixel, _, north, _, _ = tile.GetGeoTransform()
    x, y = (points[:, 0] - west) / pixel - 0.5, (north - points[:, 1]) / pixel - 0.5
    rgba = np.moveaxis(tile.ReadAsArray(), 0, -1).astype(float)
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    height, width = rgba.shape[:2]
    # The last rows of the northern tile overlap the southern one, which may lie on top.
    inside = (i > 100) & (i < height - 102) & (j > 2) & (j < width - 3)
    i, j = i.clip(0, height - 2), j.clip(0, width - 2)
    fy, fx = (y - i)[:, np.newaxis], (x - j)[:, np.newaxis]
    corners = [rgba[i, j], rgba[i, j + 1], rgba[i + 1, j], rgba[i + 1, j + 1]]
    inside &= np.min([corner[:, 3] for corner in corners], axis=0) == 255
    top = corners[0] * (1 - fx) + corners[1] * fx
    bottom = corners[2] * (1 - fx) + corners[3] * fx
    return (top * (1 - fy) + bottom * fy)[:, :3], inside


def test_seams_shows_where_tiles_meet_and_that_they_do_not_when_they_are_feathered(zagreb):
    """Two scenes of one day, which differ by up to 12 levels where they overlap."""
    found = {}
    for overlap in ("feather", "top"):
        zagreb.config["pyramid"]["overlap"] = overlap
        zagreb.run("--cores", "2")
        said = zagreb.says("seams")
        row = next(line.split() for line in said.splitlines() if "tile borders" in line)
        found[overlap] = dict(
            zip(("lines", "median", "largest", "beside"), map(float, row[2:6]), strict=True)
        )
        picture = zagreb.results / "seams/zagreb.png"
        assert f"Picture: {picture}" in said
        picture.unlink()
    del zagreb.config["pyramid"]["overlap"]
    zagreb.run("--cores", "2")
    assert found["top"]["lines"] == found["feather"]["lines"] >= 5
    assert found["top"]["median"] > 2 * found["top"]["beside"]
    assert found["feather"]["median"] < 1.5 * found["feather"]["beside"]


def test_seams_names_what_is_missing(zagreb):
    for name in ("pyramid/zagreb.pmtiles", "tiles/33TWM_0_0.tif"):
        path = zagreb.results / name
        path.rename(path.with_suffix(".away"))
        done = zagreb.call("seams")
        path.with_suffix(".away").rename(path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"seams: there is no results/{name}")
        assert done.stderr.count("\n") == 1


def test_map_credits_copernicus_and_is_complete(zagreb):
    archive = zagreb.results / "pyramid/zagreb.pmtiles"
    assert metadata(archive)["attribution"] == "Contains modified Copernicus Sentinel data 2023"
    assert (zagreb.results / "preview/zagreb.html").exists()
    assert "Nothing to be done" in zagreb.run("--cores", "2")


@pytest.mark.parametrize(("zoom", "image", "least"), [(10, 0, 60), (8, 1, 45), (7, 2, 45)])
def test_a_map_from_reduced_images_is_near_to_that_from_whole_bands(
    real_data, new_build, tmp_path, zoom, image, least
):
    """The bands as cloud-optimized GeoTIFFs on a server, with averages as reduced images.

    Reduced images are averages of reflectances before the recipe; of whole bands, colours are
    averaged after it, in linear light. Sides that can be halved twice, as those of the mosaics can
    be thrice: GDAL's images of odd sides have pixels between those of basemake's.
    """
    document = json.loads((real_data / "real_mosaic/items.json").read_text())
    with FaultyServer() as server:
        for item in document["features"]:
            for asset in item["assets"].values():
                path = real_data / "real_mosaic" / asset["href"]
                if path.name not in ("B02.tif", "B03.tif", "B04.tif"):
                    continue
                options = ["COMPRESS=DEFLATE", "PREDICTOR=YES", "BLOCKSIZE=128"]
                options += ["RESAMPLING=AVERAGE", "OVERVIEWS=IGNORE_EXISTING"]
                cog = tmp_path / "cog.tif"
                window = [0, 0, 912, 912]
                gdal.Translate(
                    str(cog), str(path), format="COG", creationOptions=options, srcWin=window
                )
                place = f"/{item['id']}/{path.name}"
                server.files[place] = cog.read_bytes()
                asset["href"] = server.url + place
                asset["file:size"] = len(server.files[place])
                asset.pop("file:checksum", None)
        items = tmp_path / "items.json"
        items.write_text(json.dumps(document))
        maps = {}
        for fetch in ("needed", "whole"):
            build = new_build(
                quarter="2023Q3", source="source.yaml", regions={"zagreb": "zagreb.geojson"}
            )
            build.config |= {"fetch": fetch, "pyramid": {"max_zoom": zoom, "quality": "lossless"}}
            region = {"type": "Polygon", "coordinates": [ZAGREB]}
            source = {**SOURCE, "items": str(items), "hosts": [server.host]}
            source["limits"] = {"requests_per_minute": 60_000}
            (build.directory / "source.yaml").write_text(yaml.safe_dump(source))
            (build.directory / "zagreb.geojson").write_text(json.dumps(region))
            build.build()
            maps[fetch] = canvas(build.results / "pyramid/zagreb.pmtiles", zoom)[0]
            if fetch == "needed":
                band = gdal.Open(str(build.results / "bands/33TWL_0_0/B04.tif"))
                assert band.GetMetadataItem("LEVEL") == str(image)
    needed, whole = maps["needed"], maps["whole"]
    np.testing.assert_array_equal(needed[..., 3], whole[..., 3])
    shown = whole[..., 3] == 255
    difference = needed[shown].astype(float) - whole[shown]
    psnr = 10 * np.log10(255**2 / np.square(difference[:, :3]).mean())
    assert psnr >= least
