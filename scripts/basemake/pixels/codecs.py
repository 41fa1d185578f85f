"""How enhanced tiles may be compressed: the profiles that `tile_codec` names."""

from typing import Any, NamedTuple

from basemake.errors import ConfigError

# Pixels a side of an enhanced tile's blocks: lossless WebP is about 3 times faster than with 256.
BLOCK = 512


class Codec(NamedTuple):
    """One profile: tifffile's arguments, and the name of the compression in GDAL's GTiff driver."""

    tifffile: dict[str, Any]
    gdal: str


# All are lossless, at their fastest efforts: slower ones save at most 7 % of the bytes (13 % with
# JPEG XL) and take up to 40 times as long. `snakemake compare_codecs` measures it on your tiles.
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
    # The TIFF compression is 50002, which GDAL reads from 3.4 on, not the newer number of DNG.
    "jxl": Codec(
        {"compression": "jpegxl", "compressionargs": {"lossless": True, "effort": 1}}, "JXL"
    ),
}


def check_codecs(name: str, image_format: str) -> None:
    """Raise ConfigError if the installed GDAL cannot read the tiles or write the web tiles.

    `name`, a key of CODECS, is the compression of the enhanced tiles, which all later stages read
    by GDAL. Web tiles are written by GDAL's driver if `image_format` is webp. Many builds of GDAL
    lack a codec. Nothing is checked where GDAL is not installed: jobs may run in environments of
    their own.
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
