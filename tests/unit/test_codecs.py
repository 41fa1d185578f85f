"""The codecs of enhanced tiles: the compression that files state, and GDAL builds without it."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from osgeo import gdal

from basemake.errors import ConfigError
from basemake.pixels.codecs import CODECS, check_codecs

SCHEMA = Path(__file__).resolve().parents[2] / "config" / "config.schema.yaml"
TIFF_NUMBERS = {"webp": 50001, "zstd": 50000, "deflate": 32946, "jxl": 50002}


def test_config_allows_what_there_is() -> None:
    allowed = yaml.safe_load(SCHEMA.read_text())["properties"]["tile_codec"]["enum"]
    assert allowed == list(CODECS)


@pytest.mark.parametrize("name", CODECS)
def test_blocks_come_back_and_the_number_is_the_one_that_gdal_knows(
    name: str, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (600, 530, 4), np.uint8)
    pixels[:100, :100] = 0
    path = tmp_path / "tile.tif"
    options = {"tile": (512, 512), "photometric": "rgb", "extrasamples": ("unassalpha",)}
    tifffile.imwrite(path, pixels, **options, **CODECS[name].tifffile)
    with tifffile.TiffFile(path) as tif:
        assert tif.pages[0].tags["Compression"].value == TIFF_NUMBERS[name]
        assert (tif.pages[0].asarray() == pixels).all()


def creation_options(*names: str) -> str:
    values = "".join(f"<Value>{name}</Value>" for name in names)
    return f'<CreationOptionList><Option name="COMPRESS">{values}</Option></CreationOptionList>'


@pytest.mark.parametrize("name", CODECS)
def test_a_gdal_that_cannot_read_it_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    able = [codec.gdal for codec in CODECS.values()]

    def pretend(names: list[str]) -> None:
        class Driver:
            GetMetadataItem = staticmethod(lambda _: creation_options(*names))

        monkeypatch.setattr(gdal, "GetDriverByName", lambda _: Driver)

    pretend(able)
    check_codecs(name, "png")
    pretend([codec for codec in able if codec != CODECS[name].gdal])
    with pytest.raises(ConfigError) as caught:
        check_codecs(name, "png")
    others = ", ".join(codec for codec in CODECS if codec != name)
    assert str(caught.value) == (
        f"tile_codec is {name!r}, which the installed GDAL {gdal.__version__} cannot read in"
        f" GeoTIFF; allowed: {others}."
    )


@pytest.mark.parametrize("name", ["webp", "zstd", "deflate"])
def test_this_gdal_reads_the_usual_ones(name: str) -> None:
    check_codecs(name, "webp")


def test_a_gdal_that_cannot_write_web_tiles_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = {"GTiff": gdal.GetDriverByName("GTiff")}
    monkeypatch.setattr(gdal, "GetDriverByName", drivers.get)
    check_codecs("deflate", "png")
    with pytest.raises(ConfigError, match=r"pyramid.format is 'webp', which .* allowed: png, jpeg"):
        check_codecs("deflate", "webp")
