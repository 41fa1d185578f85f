"""How enhanced tiles may be compressed: the profiles that `tile_codec` names."""

from typing import Any, NamedTuple

from basemake.errors import ConfigError


class Codec(NamedTuple):
    """One profile: tifffile's arguments, and the name of the compression in GDAL's GTiff driver."""

    tifffile: dict[str, Any]
    gdal: str


# Lossless all; the effort is the fastest: the slower ones save at most 7 % of the bytes (JPEG XL's
# 13 %) and take up to 40 times as long. `snakemake compare_codecs` measures it on your own tiles.
CODECS = {
    "webp": Codec(
        {"compression": "webp", "compressionargs": {"lossless": True, "level": 0, "method": 0}},
        "WEBP",
    ),
    "zstd": Codec(
        {"compression": "zstd", "compressionargs": {"level": 9}, "predictor": True}, "ZSTD"
    ),
    "deflate": Codec(
        {"compression": "deflate", "compressionargs": {"level": 6}, "predictor": True}, "DEFLATE"
    ),
    # The compression's number is 50002, which GDAL reads from 3.4 on, not the newer one of DNG.
    "jxl": Codec(
        {"compression": "jpegxl", "compressionargs": {"lossless": True, "effort": 1}}, "JXL"
    ),
}


def check_codecs(name: str, image_format: str) -> None:
    """Raise ConfigError if the installed GDAL lacks what a build encodes or decodes by it.

    All stages after enhancement read tiles, of which `name`, a key of CODECS, is the compression;
    web tiles of `image_format` webp are written by its driver. Many builds of GDAL lack a codec.
    Where there is no GDAL at all, as where jobs bring their own, nothing is checked.
    """
    try:
        from osgeo import gdal
    except ImportError:
        return

    options = gdal.GetDriverByName("GTiff").GetMetadataItem("DMD_CREATIONOPTIONLIST")
    if f"<Value>{CODECS[name].gdal}</Value>" not in options:
        readable = [k for k, codec in CODECS.items() if f"<Value>{codec.gdal}</Value>" in options]
        raise ConfigError(
            f"tile_codec is {name!r}, which the installed GDAL {gdal.__version__} cannot read in"
            f" GeoTIFF; allowed: {', '.join(readable)}."
        )
    if image_format == "webp" and gdal.GetDriverByName("WEBP") is None:
        raise ConfigError(
            f"pyramid.format is 'webp', which the installed GDAL {gdal.__version__} cannot write;"
            " allowed: png, jpeg."
        )
