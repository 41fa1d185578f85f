"""Web tiles as image files."""

from collections.abc import Callable
from io import BytesIO

import imagecodecs
import numpy as np
from PIL import Image

from basemake.raster import RGBA

WEBP_METHOD = 4  # the effort; lossless takes effort from its level instead
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


def _webp(rgba: RGBA, quality: int | str | None) -> bytes:
    rgba = np.ascontiguousarray(rgba)
    if quality == "lossless":
        return bytes(imagecodecs.webp_encode(rgba, level=50, lossless=True, method=1))
    return bytes(
        imagecodecs.webp_encode(rgba, level=int(quality or 0), lossless=False, method=WEBP_METHOD)
    )


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
