"""Encoding web tiles as WebP, PNG and JPEG."""

from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from threading import get_ident

import cv2
import numpy as np
from numpy.typing import NDArray
from osgeo import gdal, gdal_array
from PIL import Image

from basemake.pixels.light import halve, to_colours, to_light
from basemake.pixels.raster import RGBA

# Method 2 does not try how many bits each way to predict a block takes, which halves the time. With
# one segment, libwebp 1.6 and older would then code with its standard probabilities, in 7 % more
# bytes, so there are two. Little noise shaping (3 of 100), because it spends bytes on flat areas;
# the strongest deblocking filter, because it raises the PSNR at no cost.
LOSSY = ["METHOD=2", "SEGMENTS=2", "SNS_STRENGTH=3", "FILTER_STRENGTH=100"]
FINER = 1  # of 100: added to the quality, as the PSNR with method 2 is lower by that much
LOSSLESS = ["LOSSLESS=YES", "QUALITY=50", "METHOD=1"]  # QUALITY is the effort in lossless mode
WHITE = "#ffffff"


def encoder(
    image_format: str, quality: int | str | None, background: str | None = None
) -> Callable[[RGBA], bytes]:
    """Return a function that encodes one uint8 RGBA image (height, width, 4).

    `image_format` is webp, png or jpeg. `quality` is 1..100, or "lossless" (webp only); png, always
    lossless, ignores it. jpeg has no transparency: transparent pixels become `background`, a
    colour such as #12304a, or white. Images of nothing but the background are encoded once.
    """
    encode: Callable[[RGBA], bytes]
    if image_format == "png":
        encode = _png
    elif image_format == "jpeg":
        encode = partial(_jpeg, quality=int(quality or 0), behind=rgb(background or WHITE))
    else:
        encode = partial(_webp, quality=quality)
    if background is None:
        return encode
    plain = np.array([*rgb(background), 255], np.uint8)
    once = cache(lambda height, width: encode(np.tile(plain, (height, width, 1))))
    return lambda rgba: once(*rgba.shape[:2]) if (rgba == plain).all() else encode(rgba)


def rgb(colour: str) -> NDArray[np.uint8]:
    """Return red, green and blue, (3,), of a colour such as #12304a."""
    return np.frombuffer(bytes.fromhex(colour.removeprefix("#")), np.uint8)


def _webp(rgba: RGBA, quality: int | str | None) -> bytes:
    if quality == "lossless":
        options = LOSSLESS
    else:
        rgba, options = _fill(rgba), [*LOSSY, f"QUALITY={min(int(quality or 0) + FINER, 100)}"]
    # GDAL's driver, as Pillow lacks some of these options. EXACT keeps the colours from _fill;
    # without it libwebp sets transparent blocks to black.
    name = f"/vsimem/{get_ident()}.webp"
    bands = 4 if rgba[..., 3].min() < 255 else 3
    source = gdal_array.OpenArray(np.moveaxis(rgba[..., :bands], -1, 0))
    gdal.GetDriverByName("WEBP").CreateCopy(name, source, options=[*options, "EXACT=1"])
    file = gdal.VSIFOpenL(name, "rb")
    data = bytes(gdal.VSIFReadL(1, gdal.VSIStatL(name).size, file))
    gdal.VSIFCloseL(file)
    gdal.Unlink(name)
    return data


def _fill(rgba: RGBA) -> RGBA:
    """Give transparent pixels the colours of pixels nearby: lossy blocks then have no dark edges.

    The colours are those of ever smaller halves of the image, until no pixel is transparent. Alpha
    is kept.
    """
    if rgba[..., 3].min() > 0 or rgba[..., 3].max() == 0:
        return rgba
    height, width = rgba.shape[:2]
    coarse = _fill(to_colours(halve(to_light(rgba))))
    filled = cv2.resize(coarse, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)[:height, :width]
    alpha = cv2.extractChannel(rgba, 3)
    cv2.copyTo(rgba, alpha, filled)
    return cv2.insertChannel(alpha, filled, 3)


def _png(rgba: RGBA) -> bytes:
    buffer = BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(rgba: RGBA, quality: int, behind: NDArray[np.uint8]) -> bytes:
    alpha = rgba[..., 3:].astype(np.uint16)
    solid = (rgba[..., :3] * alpha + behind * (255 - alpha) + 127) // 255
    buffer = BytesIO()
    Image.fromarray(solid.astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
