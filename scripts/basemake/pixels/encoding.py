"""Web tiles as image files."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from threading import get_ident

import cv2
import numpy as np
from osgeo import gdal, gdal_array
from PIL import Image

from basemake.errors import TileError
from basemake.pixels.raster import RGBA, halve

# libwebp's defaults spend bytes on flat areas (spatial noise shaping, by segments). Without, it is
# nearer to the pixels in fewer bytes and less time.
LOSSY = ["METHOD=4", "SNS_STRENGTH=0", "SEGMENTS=1"]
LOSSLESS = ["LOSSLESS=YES", "QUALITY=50", "METHOD=1"]  # here quality is effort
WHITE = 255


def encoder(image_format: str, quality: int | str | None) -> Callable[[RGBA], bytes]:
    """Return a function that encodes one uint8 RGBA image (height, width, 4).

    `image_format` is webp, png or jpeg; `quality` is 1..100, or "lossless" (webp only; png always
    is). jpeg has no transparency: it shows white there.
    """
    if image_format == "png":
        return _png
    if image_format == "jpeg":
        return lambda rgba: _jpeg(rgba, int(quality or 0))
    return lambda rgba: _webp(rgba, quality)


def read_png(path: Path) -> tuple[RGBA, dict]:
    """Return the pixels of a PNG and its texts. Raises TileError, naming it, if it is not whole."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert("RGBA")), image.info
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: Pillow's, of broken chunks
        raise TileError(
            f"the image {path} cannot be read ({error}); delete it and run again to make it anew."
        ) from error


def _webp(rgba: RGBA, quality: int | str | None) -> bytes:
    if quality == "lossless":
        options = LOSSLESS
    else:
        rgba, options = _fill(rgba), [*LOSSY, f"QUALITY={quality}"]
    # GDAL's driver, as Pillow does not let one set all this. EXACT keeps what _fill put there;
    # without it libwebp blackens whole transparent blocks.
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
    """Give transparent pixels the colours of what is near, so that lossy blocks have no dark edge.

    Taken from ever smaller halves of the image until nothing is transparent; alpha stays.
    """
    if rgba[..., 3].min() > 0 or rgba[..., 3].max() == 0:
        return rgba
    height, width = rgba.shape[:2]
    coarse = _fill(halve(rgba))
    filled = cv2.resize(coarse, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)[:height, :width]
    alpha = cv2.extractChannel(rgba, 3)
    cv2.copyTo(rgba, alpha, filled)
    return cv2.insertChannel(alpha, filled, 3)


def _png(rgba: RGBA) -> bytes:
    buffer = BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(rgba: RGBA, quality: int) -> bytes:
    alpha = rgba[..., 3:].astype(np.uint16)
    on_white = (rgba[..., :3] * alpha + WHITE * (255 - alpha) + 127) // 255
    buffer = BytesIO()
    Image.fromarray(on_white.astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
