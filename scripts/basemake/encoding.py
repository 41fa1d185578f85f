"""Web tiles as image files."""

from collections.abc import Callable
from io import BytesIO

import imagecodecs
import numpy as np
from PIL import Image

from basemake.raster import RGBA, halve

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
    buffer = BytesIO()
    options = {"quality": int(quality or 0), "method": WEBP_METHOD}
    # exact keeps what _fill put there; without it libwebp blackens whole transparent blocks.
    Image.fromarray(_fill(rgba)).save(buffer, "WEBP", exact=True, **options)
    return buffer.getvalue()


def _fill(rgba: RGBA) -> RGBA:
    """Give transparent pixels the colours of what is near, so that lossy blocks have no dark edge.

    Taken from ever smaller halves of the image until nothing is transparent; alpha stays.
    """
    if rgba[..., 3].all() or not rgba[..., 3].any():
        return rgba
    height, width = rgba.shape[:2]
    coarse = _fill(halve(rgba)).repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    filled = np.where(rgba[..., 3:] > 0, rgba, coarse)
    filled[..., 3] = rgba[..., 3]
    return filled


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
