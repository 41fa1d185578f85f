"""Enhanced tiles: every pixel against the published formula, and files as GDAL reads them."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from osgeo import gdal, osr

import cogs
from basemake.errors import TileError
from basemake.pixels.codecs import CODECS
from basemake.pixels.dn import DnReading
from basemake.pixels.fill import Layer
from enhance_tile import Enhancement, Filling, enhance_tile, found_in, relabel_tile

L2A_OPTIMIZED = [
    {"step": "highlight_compression", "maximum": 3.0, "midpoint": 0.13},
    {"step": "offset_gamma", "gamma": 1.8, "offset": 0.01},
    {"step": "saturation", "factor": 1.2},
    {"step": "srgb"},
]
GAIN = [{"step": "gain", "factor": 2.5}]
MOSAIC_DN = DnReading(0.0001, 0.0, -32768)
BAD = 3, 5  # row and column of a pixel that is bad in one band only


def l2a_optimized(rho: NDArray) -> NDArray:
    """The levels, unrounded, that Sentinel Hub's script gives to reflectances (3, ...)."""
    a = np.clip(rho / 3.0, 0, 1)
    middle = 0.13 / 3.0
    adjusted = a * (a * (middle + 1 - 1) - 1) / (a * (2 * middle - 1) - middle)
    s = ((adjusted + 0.01) ** 1.8 - 0.01**1.8) / (1.01**1.8 - 0.01**1.8)
    c = np.clip(s.sum(axis=0) / 3 * (1 - 1.2) + s * 1.2, 0, 1)
    return 255 * np.where(c <= 0.0031308, 12.92 * c, 1.055 * c**0.41666666666 - 0.055)


def smooth(height: int, width: int) -> NDArray[np.int16]:
    """Three bands that differ, with dark valid pixels and one that is bad in green alone."""
    y, x = np.mgrid[:height, :width] / 37.0
    waves = [1500 + 1400 * np.sin(x + phase) * np.cos(0.7 * y - phase) for phase in (0, 0.4, 0.9)]
    dn = np.round(waves).astype(np.int16)
    dn[:, 0, 0] = 0
    dn[1, min(BAD[0], height - 1), min(BAD[1], width - 1)] = -32768
    return dn


@pytest.fixture
def bands_of(tmp_path: Path, write_geotiff):
    """A function that writes an array (bands, height, width) as the bands of a tile."""

    def write(dn: NDArray, **grid) -> list[Path]:
        folder = tmp_path / "bands" / "33TWM_0_0"
        names = ("B04.tif", "B03.tif", "B02.tif")
        return [write_geotiff(folder / names[n], band, **grid) for n, band in enumerate(dn)]

    return write


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "tiles").mkdir()
    return tmp_path / "tiles" / "33TWM_0_0.tif"


def enhance(
    bands: list[Path],
    output: Path,
    *,
    metadata: dict[str, str] | None = None,
    threads: int = 2,
    **options,
) -> NDArray[np.uint8]:
    """The pixels (height, width, 4) of an enhanced tile as GDAL decodes them, or else tifffile."""
    enhancement = replace(Enhancement(32633, GAIN, MOSAIC_DN, "zstd"), **options)
    enhance_tile(bands, output, enhancement, metadata=metadata or {}, threads=threads)
    if enhancement.codec == "jxl":
        return tifffile.imread(output)  # few builds of GDAL have the codec
    return np.moveaxis(gdal.Open(str(output)).ReadAsArray(), 0, -1)


def read(bands: list[Path]) -> NDArray:
    return np.stack([gdal.Open(str(path)).ReadAsArray() for path in bands])


def assert_formula(rgba: NDArray, dn: NDArray, reading: DnReading) -> None:
    """Every valid pixel is the formula's level, and alpha is validity exactly."""
    valid = (dn != reading.nodata).all(axis=0)
    assert valid.any()
    assert not valid.all()
    levels = l2a_optimized(dn.astype(np.float64) * reading.scale + reading.offset)
    error = np.abs(np.moveaxis(rgba[..., :3], -1, 0) - levels)[:, valid]
    # Half a level from rounding; the other half is for tables and float32 just at a half.
    assert error.max() <= 1
    assert (rgba[..., 3] == np.where(valid, 255, 0)).all()
    assert (rgba[~valid] == 0).all()


REAL_TILES = {
    # Two adjoining tiles of the mosaic that basemake is for.
    "mosaic TWL": ("real_mosaic/Sentinel-2_mosaic_2023_Q3_33TWL_0_0/{}.tif", 32633, MOSAIC_DN),
    "mosaic TWM": ("real_mosaic/Sentinel-2_mosaic_2023_Q3_33TWM_0_0/{}.tif", 32633, MOSAIC_DN),
    # DN above 32767 must not turn negative, and nodata is the largest of all.
    "uint16": (
        "s2_10m/icor_belgium_sr_32631/{}.tif",
        32631,
        DnReading(0.0001, 0.0, 65535),
    ),
    # An offset below zero, pixels that are not square.
    "landsat": (
        "landsat/LC08_L2SP_005009_20150710_20200908_02_T2/"
        "LC08_L2SP_005009_20150710_20200908_02_T2_SR_{}.TIF",
        32624,
        DnReading(2.75e-05, -0.2, 0),
    ),
    # Another projection, a ragged coast, all bands in one file.
    "calais": (
        "s2_10m/geotrellis_calais_3857_B04B03B02_SCL.tif",
        3857,
        DnReading(0.0001, 0.0, 32767),
    ),
}


@pytest.mark.parametrize("name", REAL_TILES)
def test_real_pixels_follow_the_formula(
    real_data: Path, tmp_path: Path, output: Path, name: str
) -> None:
    pattern, epsg, reading = REAL_TILES[name]
    keys = ("B4", "B3", "B2") if name == "landsat" else ("B04", "B03", "B02")
    bands = [tmp_path / f"{key}.tif" for key in keys]
    for number, (key, path) in enumerate(zip(keys, bands, strict=True), 1):
        source = str(real_data / pattern.format(key))
        gdal.Translate(str(path), source, bandList=[number if "{}" not in pattern else 1])
    spoilt = gdal.Open(str(bands[1]), gdal.GA_Update)
    spoilt.GetRasterBand(1).WriteArray(np.full((1, 1), reading.nodata), BAD[1], BAD[0])
    del spoilt
    rgba = enhance(bands, output, epsg=epsg, steps=L2A_OPTIMIZED, dn=reading, codec="webp")
    assert_formula(rgba, read(bands), reading)
    made, band = gdal.Open(str(output)), gdal.Open(str(bands[0]))
    assert made.GetGeoTransform() == band.GetGeoTransform()
    assert made.GetSpatialRef().IsSame(band.GetSpatialRef())


@pytest.mark.parametrize(
    ("dtype", "values", "nodata"),
    [
        ("uint8", range(256), 255),
        ("int16", (-32768, -1, 0, 1, 99, 4000, 32766, 32767), -32768),
        ("uint16", (0, 1, 32767, 32768, 40000, 65534, 65535), 0),
    ],
)
def test_every_data_type_is_read_as_it_is(
    bands_of, output: Path, dtype: str, values: list[int], nodata: int
) -> None:
    row = np.array([values] * 2).astype(dtype)
    bands = bands_of(np.stack([row] * 3))
    scale = 1.0 / np.iinfo(dtype).max
    reading = DnReading(scale, 0.0, nodata)
    rgba = enhance(bands, output, steps=[{"step": "gain", "factor": 1.0}], dn=reading)
    expected = np.where(row == nodata, 0, np.clip(row * scale, 0, 1) * 255)
    # Half a level from rounding.
    assert np.abs(rgba[..., 0] - expected).max() <= 0.5 + 1e-6
    assert (rgba[..., 3] == np.where(row == nodata, 0, 255)).all()


def test_without_nodata_every_pixel_is_valid(bands_of, output: Path) -> None:
    rgba = enhance(bands_of(smooth(40, 30)), output, dn=replace(MOSAIC_DN, nodata=None))
    assert (rgba[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("height", "width"), [(512, 512), (513, 1300), (1200, 700), (100, 40), (1500, 1), (1, 1025)]
)
def test_codecs_are_lossless_at_any_size(bands_of, output: Path, height: int, width: int) -> None:
    dn = smooth(height, width)
    bands = bands_of(dn)
    valid = (dn != -32768).all(axis=0)
    levels = np.clip(dn * 0.00025, 0, 1) * 255
    expected = np.floor(np.moveaxis(np.where(valid, levels, 0), 0, -1) + 0.5)
    for codec in CODECS:
        rgba = enhance(bands, output, codec=codec)
        # A product that is just at a half may round either way.
        ties = np.abs(np.moveaxis(levels, 0, -1) % 1 - 0.5) < 1e-9
        assert ((rgba[..., :3] == expected) | ties).all(), codec
        assert (rgba[..., 3] == 255 * valid).all(), codec
        if codec != "jxl":
            used = gdal.Open(str(output)).GetMetadataItem("COMPRESSION", "IMAGE_STRUCTURE")
            assert used == codec.upper()


def test_tiles_are_valid_cogs_whatever_their_codec_and_size(bands_of, output: Path) -> None:
    made = []
    for height, width in ((40, 100), (512, 512), (1200, 2100)):
        bands = bands_of(smooth(height, width))
        for codec in CODECS:
            made.append(output.with_name(f"{codec}_{width}.tif"))
            enhance(bands, made[-1], codec=codec, metadata={"RECIPE": "x" * 3000})
            with tifffile.TiffFile(made[-1]) as tif:  # as few builds of GDAL have all the codecs
                directories = [page.offset for page in tif.pages]
                first = [page.dataoffsets[0] for page in tif.pages]
                last = [page.dataoffsets[-1] + page.databytecounts[-1] for page in tif.pages]
                texts = max(tag.valueoffset for tag in tif.pages[0].tags)
            assert directories == sorted(directories)
            assert max(*directories, texts) < first[-1]
            assert first[:-1] == last[1:]  # each image begins where the next smaller one ends
            assert last[0] == made[-1].stat().st_size
    assert not cogs.refusals(path for path in made if not path.name.startswith("jxl"))
    dataset = gdal.Open(str(output.with_name("webp_2100.tif")))
    for side, level in ((2100, -1), (1050, 0)):
        bands = [dataset.GetRasterBand(n) for n in (1, 2, 3, 4)]
        views = [band.GetOverview(level) if level >= 0 else band for band in bands]
        expected = np.stack([view.ReadAsArray() for view in views])
        seen = cogs.preview(output.with_name("webp_2100.tif"), side)
        np.testing.assert_array_equal(seen, expected)


def halved(rgba: NDArray) -> NDArray:
    """Half the size in float64: the mean light of 2x2 pixels, colours weighted by alpha."""
    height, width = rgba.shape[:2]
    pixels = np.pad(rgba, ((0, height % 2), (0, width % 2), (0, 0)), "edge").astype(np.float64)
    alpha = pixels[..., 3:]
    cells = (slice(0, None, 2), slice(1, None, 2))
    weight = sum(alpha[y, x] for y in cells for x in cells)
    c = pixels[..., :3] / 255
    light = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) * alpha
    light = sum(light[y, x] for y in cells for x in cells)
    light = np.divide(light, weight, where=weight > 0, out=np.zeros_like(light))
    colour = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.concatenate([255 * colour, weight / 4], axis=-1)


@pytest.mark.parametrize(
    ("height", "width", "sizes"),
    [
        (600, 1026, [(300, 513), (150, 257), (75, 129), (38, 65), (19, 33)]),
        (1030, 7, [(515, 4), (258, 2), (129, 1), (65, 1), (33, 1)]),
        (1, 1025, [(1, 513), (1, 257), (1, 129), (1, 65), (1, 33)]),
        (64, 64, []),
    ],
)
def test_reduced_images_are_means_that_leave_nodata_out(
    bands_of, output: Path, height: int, width: int, sizes: list[tuple[int, int]]
) -> None:
    dn = smooth(height, width)
    dn[:, : height // 3, width // 2 :] = -32768  # an edge of nodata besides the one bad pixel
    level = enhance(bands_of(dn), output, codec="webp")
    with tifffile.TiffFile(output) as tif:
        assert [(page.imagelength, page.imagewidth) for page in tif.pages[1:]] == sizes
        assert [page.tags["NewSubfileType"].value for page in tif.pages] == [0] + [1] * len(sizes)
    dataset = gdal.Open(str(output))
    for number in range(4):
        assert dataset.GetRasterBand(number + 1).GetOverviewCount() == len(sizes)
    for number, size in enumerate(sizes):
        views = [dataset.GetRasterBand(b).GetOverview(number) for b in (1, 2, 3, 4)]
        reduced = np.stack([view.ReadAsArray() for view in views], axis=-1)
        assert reduced.shape == (*size, 4)
        level = halved(level)  # in float64: rounded levels would drift
        assert np.abs(reduced[..., 3] - level[..., 3]).max() <= 0.51
        # The nearest level, but for the 16 bits of light times alpha.
        shown = reduced[..., 3] > 0
        error = np.abs(reduced - level)[shown][:, :3]
        assert (error <= 0.5 + 0.08 * 255 / level[shown][:, 3:]).all()


@pytest.mark.parametrize("pixel", [10.0, 0.3])
@pytest.mark.parametrize("epsg", [32633, 32733, 3857, 6933, 2180])
def test_the_georeference_is_that_of_the_bands(
    bands_of, output: Path, epsg: int, pixel: float
) -> None:
    origin = (512_345.7, 4_987_654.1)
    bands = bands_of(smooth(20, 30), epsg=epsg, pixel=pixel, origin=origin)
    enhance(bands, output, epsg=epsg)
    dataset = gdal.Open(str(output))
    assert dataset.GetGeoTransform() == (origin[0], pixel, 0, origin[1], 0, -pixel)
    expected = osr.SpatialReference()
    expected.ImportFromEPSG(epsg)
    assert dataset.GetSpatialRef().IsSame(expected, ["IGNORE_DATA_AXIS_TO_SRS_AXIS_MAPPING=YES"])
    assert dataset.GetSpatialRef().GetAuthorityCode(None) == str(epsg)
    colours = [dataset.GetRasterBand(n).GetColorInterpretation() for n in (1, 2, 3, 4)]
    assert colours == [gdal.GCI_RedBand, gdal.GCI_GreenBand, gdal.GCI_BlueBand, gdal.GCI_AlphaBand]


def test_metadata_is_read_back_as_it_was_written(bands_of, output: Path) -> None:
    metadata = {
        "ITEM": "Sentinel-2_mosaic_2025_Q3_33TWM_0_0",
        "ATTRIBUTION": "Données « Copernicus » 2025 – ©ł東",
        "RECIPE": """<a href="x">'&amp;' & "quotes"</a>""",
        "TIFFTAG_COPYRIGHT": "Données « Copernicus » 2025 – ©ł東",
    }
    enhance(bands_of(smooth(20, 30)), output, metadata=metadata)
    found = gdal.Open(str(output)).GetMetadata()
    assert {key: found[key] for key in metadata} == metadata


def digest_of(bands: list[Path], output: Path, **options) -> str:
    enhance(bands, output, **options)
    return gdal.Open(str(output)).GetMetadataItem("DIGEST")


def test_the_digest_is_the_same_whatever_codec_metadata_and_threads(bands_of, output: Path) -> None:
    bands = bands_of(smooth(700, 1100))
    digests = {
        digest_of(bands, output, codec=codec, threads=threads, metadata={"ITEM": word})
        for codec, threads, word in (
            ("zstd", 1, "a"),
            ("webp", 4, "ä"),
            ("deflate", 2, "much" * 99),
        )
    }
    (digest,) = digests
    assert re.fullmatch("[0-9a-f]{64}", digest)


def test_the_digest_does_not_depend_on_the_blocks_of_the_bands(bands_of, output: Path) -> None:
    dn = smooth(1100, 1600)
    digests = set()
    for blocks in ((), ("TILED=YES",), ("TILED=YES", "BLOCKXSIZE=640", "BLOCKYSIZE=384")):
        digests.add(digest_of(bands_of(dn, options=blocks), output))
    assert len(digests) == 1


def test_the_digest_tells_one_pixel_and_the_grid(
    bands_of, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dn = smooth(600, 700)
    digests = [digest_of(bands_of(dn), output)]
    for row, column in ((0, 5), (599, 699), (513, 300)):
        changed = dn.copy()
        changed[2, row, column] += 300
        digests.append(digest_of(bands_of(changed), output))
    transparent = dn.copy()
    transparent[0, 50, 60] = -32768
    digests.append(digest_of(bands_of(transparent), output))
    digests.append(digest_of(bands_of(dn[:, :599]), output))
    digests.append(digest_of(bands_of(dn, origin=(500_010.0, 5_000_000.0)), output))
    digests.append(digest_of(bands_of(dn, pixel=10.5), output))
    digests.append(digest_of(bands_of(dn, epsg=32634), output, epsg=32634))
    # A reduced image that is made another way.
    monkeypatch.setattr("enhance_tile.halve", lambda light: light[::2, ::2])
    digests.append(digest_of(bands_of(dn), output))
    assert len(set(digests)) == len(digests)


def test_a_filled_tile_tells_which_item_each_pixel_shows(
    tmp_path: Path, output: Path, write_geotiff
) -> None:
    """In windows and strips, by any number of threads; and with another label it stays so."""
    dn = np.stack([np.full((1100, 700), 1000 + 100 * n, np.int16) for n in range(3)])
    first, second = dn.copy(), (dn * 1.25).astype(np.int16)
    first[:, 500:900, 200:600] = second[:, 850:950, 550:650] = -32768
    layers = []
    # Blocks as low as lines, which are read in strips.
    for name, pixels in (("first", first), ("second", second)):
        paths = [write_geotiff(tmp_path / name / f"{n}.tif", band) for n, band in enumerate(pixels)]
        layers.append(Layer(paths, MOSAIC_DN))
    made = {}
    for threads in (1, 4):
        provenance = output.with_name(f"{threads}.provenance.tif")
        enhancement = Enhancement(32633, GAIN, MOSAIC_DN, "zstd")
        enhance_tile(
            layers[0].bands,
            output,
            enhancement,
            metadata={"ITEMS": "two"},
            threads=threads,
            filling=Filling(layers, provenance),
        )
        made[threads] = output.read_bytes(), provenance.read_bytes()
    assert made[1] == made[4]
    assert not cogs.refusals([output, provenance])
    item = gdal.Open(str(provenance)).ReadAsArray()
    expected = np.ones((1100, 700), np.uint8)
    expected[500:900, 200:600] = 2
    expected[850:900, 550:600] = 0
    np.testing.assert_array_equal(item, expected)
    dataset = gdal.Open(str(provenance))
    for level in (1, 2):
        view = dataset.GetRasterBand(1).GetOverview(level - 1)
        np.testing.assert_array_equal(view.ReadAsArray(), expected[:: 2**level, :: 2**level])
    rgba = np.moveaxis(gdal.Open(str(output)).ReadAsArray(), 0, -1)
    levels = np.floor(dn[:, 0, 0] * 0.00025 * 255 + 0.5)
    np.testing.assert_array_equal(rgba[expected == 1], [[*levels, 255]] * (expected == 1).sum())
    assert np.abs(rgba[expected == 2][:, :3] - levels).max() <= 1
    assert not rgba[expected == 0].any()
    shares = [(expected == n).sum() / (expected > 0).sum() for n in (1, 2)]
    assert found_in(output)["shares"] == pytest.approx(shares, abs=1e-6)
    relabel_tile(output, output, metadata={"ITEMS": "others"}, codec="zstd")
    assert found_in(output)["shares"] == pytest.approx(shares, abs=1e-6)
    assert gdal.Open(str(output)).GetMetadataItem("ITEMS") == "others"


def test_a_further_item_in_another_crs_is_refused(
    tmp_path: Path, output: Path, write_geotiff
) -> None:
    dn = smooth(40, 30)
    layers = [
        Layer(
            [
                write_geotiff(tmp_path / str(epsg) / f"{n}.tif", band, epsg=epsg)
                for n, band in enumerate(dn)
            ],
            MOSAIC_DN,
        )
        for epsg in (32633, 32634)
    ]
    enhancement = Enhancement(32633, GAIN, MOSAIC_DN, "zstd")
    filling = Filling(layers, output.with_name("provenance.tif"))
    with pytest.raises(TileError, match=r"32634/0\.tif is in WGS 84 / UTM zone 34N, but its item"):
        enhance_tile(layers[0].bands, output, enhancement, metadata={}, threads=1, filling=filling)
    assert not output.exists()


CREDIT = "Données « Copernicus » 2025 – ©ł東"
LABELS = {
    "longer": {"ITEM": "x" * 9000, "RECIPE": "<&>'", "TIFFTAG_COPYRIGHT": 20 * CREDIT},
    "shorter": {"ITEM": "b", "TIFFTAG_COPYRIGHT": CREDIT},
    "of three letters": {"ITEM": "東", "TIFFTAG_COPYRIGHT": "ESA"},
    "of four letters": {"ITEM": "b", "TIFFTAG_COPYRIGHT": "NASA"},
    "of one letter": {"ITEM": "-", "TIFFTAG_COPYRIGHT": "x"},
    "without copyright": {"ITEM": "-"},
}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("before", LABELS)
def test_a_relabelled_tile_is_the_one_that_would_be_made(
    bands_of, output: Path, monkeypatch: pytest.MonkeyPatch, before: str, label: str, big: bool
) -> None:
    writer = tifffile.TiffWriter
    monkeypatch.setattr(
        tifffile, "TiffWriter", lambda path, bigtiff: writer(path, bigtiff=big or bigtiff)
    )
    bands = bands_of(smooth(700, 40))
    enhance(bands, output, metadata=LABELS[label])
    expected = output.read_bytes()
    enhance(bands, output, metadata=LABELS[before])
    other = output.with_name("other.tif")
    relabel_tile(output, other, metadata=LABELS[label], codec="zstd")
    assert other.read_bytes() == expected
    relabel_tile(output, output, metadata=LABELS[label], codec="zstd")  # in its own place
    assert output.read_bytes() == expected
    found = gdal.Open(str(output)).GetMetadata()
    assert found.items() >= LABELS[label].items()
    assert {path.name for path in output.parent.iterdir()} == {output.name, other.name}


@pytest.mark.parametrize(
    ("blocks", "fetched"),
    [(None, 700 * 600), ("0-1,5", 256 * 512 + 256 * 88), ("8", 188 * 88)],
)
def test_a_tile_tells_its_holes_among_the_pixels_that_were_fetched(
    bands_of, output: Path, blocks: str | None, fetched: int
) -> None:
    """Of 3 x 3 blocks of 256 pixels; what was not fetched reads as nodata, and is no hole."""
    dn = smooth(700, 600)
    here = np.full((3, 3), blocks is None)
    here.flat[[{"0-1,5": [0, 1, 5], "8": [8]}.get(blocks or "", [])]] = True
    dn[:, ~np.kron(here, np.ones((256, 256), bool))[:700, :600]] = -32768
    bands = bands_of(dn, options=("TILED=YES", "BLOCKXSIZE=256", "BLOCKYSIZE=256"))
    for path in bands if blocks is not None else []:
        band = gdal.Open(str(path), gdal.GA_Update)
        band.SetMetadataItem("BLOCKS", blocks)
        del band
    rgba = enhance(bands, output)
    empty = fetched - int((rgba[..., 3] == 255).sum())
    assert found_in(output) == {"holes": [empty, fetched]}
    assert empty == int(here[0, 0])  # the pixel that is bad in one band


def test_the_bytes_do_not_depend_on_threads(bands_of, output: Path) -> None:
    bands = bands_of(smooth(1100, 1600))
    contents = set()
    for threads in (1, 2, 4, 4):
        enhance(bands, output, codec="webp", threads=threads)
        contents.add(output.read_bytes())
    assert len(contents) == 1


def test_nor_do_they_depend_on_the_blocks_of_the_bands(
    bands_of, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enhance_tile.READ_PIXELS", 1 << 17)  # as in a tile of the real size
    dn = smooth(1100, 1600)
    contents = set()
    for width, height in ((256, 256), (512, 1024), (640, 384), (2048, 2048), (1600, 1), (1600, 90)):
        blocks = (f"BLOCKYSIZE={height}",)
        if width != dn.shape[2]:
            blocks += ("TILED=YES", f"BLOCKXSIZE={width}")
        bands = bands_of(dn, options=("COMPRESS=DEFLATE", *blocks))
        assert gdal.Open(str(bands[0])).GetRasterBand(1).GetBlockSize() == [width, height]
        enhance(bands, output)
        contents.add(output.read_bytes())
    assert len(contents) == 1


GOOD = np.full((64, 64), 1000, np.int16)
MISFITS = {
    "shape": (GOOD[:60], {}),
    "origin": (GOOD, {"origin": (500_010.0, 5_000_000.0)}),
    "pixel size": (GOOD, {"pixel": 20.0}),
    "dtype": (GOOD.astype(np.uint16), {}),
    "CRS": (GOOD, {"epsg": 32634}),
}


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("misfit", MISFITS)
def test_bands_that_disagree_are_named(
    bands_of, write_geotiff, output: Path, which: int, misfit: str
) -> None:
    bands = bands_of(smooth(64, 64))
    array, grid = MISFITS[misfit]
    bands[which].unlink()
    write_geotiff(bands[which], array, **grid)
    with pytest.raises(TileError, match=rf"33TWM_0_0.*{bands[which].name}") as caught:
        enhance(bands, output)
    assert "\n" not in str(caught.value)
    assert not output.exists()


def test_bands_in_another_crs_than_their_item_are_named(bands_of, output: Path) -> None:
    bands = bands_of(smooth(64, 64), epsg=32634)
    with pytest.raises(TileError, match=r"B04\.tif.*zone 34N.*EPSG:32633"):
        enhance(bands, output)
    assert not output.exists()


@pytest.mark.parametrize(
    "transform",
    [(500_000, 10, 0, 5_000_000, 0, 10), (500_000, 9, 1, 5_000_000, 1, -9)],
    ids=["south up", "rotated"],
)
def test_bands_that_are_not_north_up_are_named(
    bands_of, output: Path, transform: tuple[float, ...]
) -> None:
    bands = bands_of(smooth(64, 64))
    for path in bands:
        gdal.Open(str(path), gdal.GA_Update).SetGeoTransform(transform)
    with pytest.raises(TileError, match=r"B04\.tif is not north up"):
        enhance(bands, output)
    assert not output.exists()


@pytest.mark.parametrize("which", [[0], [1], [2], [0, 1, 2]])
def test_a_band_without_a_crs_is_named(bands_of, output: Path, which: list[int]) -> None:
    bands = bands_of(smooth(64, 64))
    for number in which:
        with tifffile.TiffWriter(bands[number]) as tif:
            tif.write(GOOD)
    with pytest.raises(TileError, match=rf"{bands[which[0]].name}.*without a CRS"):
        enhance(bands, output)
    assert not output.exists()


@pytest.mark.parametrize("kept", [0.6, 0.001, 0])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_truncated_band_is_the_one_that_is_named(
    bands_of, output: Path, which: int, kept: float
) -> None:
    noise = np.random.default_rng(1).integers(0, 4000, (3, 300, 300)).astype(np.int16)
    bands = bands_of(noise, options=("TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=64"))
    for path in bands:  # a COG's directory comes first: what is cut off it is pixels
        source = path.rename(path.with_suffix(".plain"))
        gdal.Translate(str(path), str(source), format="COG", creationOptions=["COMPRESS=DEFLATE"])
    content = bands[which].read_bytes()
    bands[which].write_bytes(content[: int(kept * len(content))])
    with pytest.raises(TileError) as caught:
        enhance(bands, output)
    advice = str(caught.value).partition("(")[0]
    assert str(bands[which]) in advice
    others = {path.name for path in bands} - {bands[which].name}
    assert not any(name in str(caught.value) for name in others)
    assert not output.exists()


MEASURE = """
import sys
from pathlib import Path
from basemake.pixels.raster import set_up_libraries
from basemake.pixels.dn import DnReading
from enhance_tile import Enhancement, enhance_tile
set_up_libraries(64)
enhance_tile([Path(path) for path in sys.argv[1:4]], Path(sys.argv[4]),
    Enhancement(32633, {steps}, {dn}, "webp"), metadata={{}}, threads={threads})
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
SQUARES = ("TILED=YES", "BLOCKXSIZE=1024", "BLOCKYSIZE=1024")
STRIPS = ("BLOCKYSIZE=1",)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(("blocks", "threads"), [(SQUARES, 4), (SQUARES, 1), (STRIPS, 8)])
def test_a_tile_of_the_real_size_needs_no_more_memory_than_its_job_states(
    bands_of, output: Path, blocks: tuple[str, ...], threads: int
) -> None:
    side = 10008
    y, x = np.ogrid[:side, :side]
    relief = (900 + 700 * np.sin(x / 200) * np.cos(y / 300)).astype(np.int16)
    relief += np.random.default_rng(1).integers(0, 60, (1, side), dtype=np.int16)
    relief[BAD] = -32768
    packed = ("COMPRESS=DEFLATE", "PREDICTOR=2", "ZLEVEL=1", "NUM_THREADS=ALL_CPUS")
    (path,) = bands_of(relief[np.newaxis], options=(*blocks, *packed))
    scripts = Path(__file__).parents[2] / "scripts"
    command = MEASURE.format(steps=L2A_OPTIMIZED, dn=MOSAIC_DN, threads=threads)
    measured = subprocess.run(
        [sys.executable, "-c", command, *[str(path)] * 3, str(output)],
        cwd=scripts,
        capture_output=True,
        text=True,
        check=True,
    )
    stated = 120 + 64 * threads + 64  # mem_mb of rule enhance_tile; 440 at the default threads
    assert int(measured.stdout) < stated << 10  # KiB
    assert gdal.Open(str(output)).RasterXSize == side
