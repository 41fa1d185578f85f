"""The sheet of looks: a region and its places in every recipe, as one PNG and as one HTML page."""

import base64
import io
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment
from PIL import Image, ImageChops, ImageDraw, ImageFont

from basemake.look.figures import Figures, share_text
from basemake.look.pictures import Picture
from basemake.pixels.raster import RGBA
from basemake.system.files import writing

TEMPLATE = Path(__file__).parent / "page" / "looks.html"
PAPER, INK, PALE, FRAME, ACCENT = "#f4f3f0", "#23272b", "#6d7278", "#d9d7d2", "#0b6e5f"
BANDS = ("#e0342b", "#1f9d4d", "#2d62d8")  # of a histogram's red, green and blue
EDGE, GAP, HEAD, LABELS = 36, 14, 112, 300  # pixels of the sheet
CELL = 300  # pixels a side of a crop on the sheet, and the height of a map there
MAP_WIDTH, LEAST_WIDTH = 460, 120  # pixels that a map takes, at most and at least
HISTOGRAM = (LABELS - 30, 84)
FINER = 3  # what is drawn is drawn larger by this factor and reduced, for smooth edges
QUALITY = 92  # of the pictures in the page, as lossy WebP


@dataclass(frozen=True)
class Look:
    """A recipe, the pictures in its colours, the map first, and the figures of each."""

    name: str
    description: str
    used: bool
    images: list[RGBA]
    figures: list[Figures]


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows. `notes` are lines below the title, `credit` the imagery's."""

    title: str
    notes: str
    credit: str
    pictures: list[Picture]
    looks: list[Look]


def draw_sheet(path: Path, sheet: Sheet) -> None:
    """Write the sheet as a PNG: a row a recipe, a column a place, and the figures on the left."""
    rows, columns = sheet.looks[0].images[0].shape[:2]
    scale = min(CELL / rows, MAP_WIDTH / columns)
    size = round(columns * scale), round(rows * scale)  # of the map
    widths = [max(LEAST_WIDTH, size[0]), *[CELL] * (len(sheet.pictures) - 1)]
    lefts = np.cumsum([EDGE + LABELS, *[width + GAP for width in widths]]).tolist()
    height = HEAD + len(sheet.looks) * (CELL + GAP) + 40
    image = Image.new("RGB", (lefts[-1] - GAP + EDGE, height), PAPER)
    draw = ImageDraw.Draw(image)
    small, text, large = (ImageFont.load_default(size) for size in (13, 15, 26))
    draw.text((EDGE, 26), sheet.title, INK, large)
    draw.text((EDGE, 62), sheet.notes, PALE, small)
    for picture, left in zip(sheet.pictures, lefts, strict=False):
        draw.text((left, HEAD - 24), heading(picture), PALE, small)
    for number, look in enumerate(sheet.looks):
        top = HEAD + number * (CELL + GAP)
        _draw_label(image, look, top, (small, text))
        for column, (rgba, left) in enumerate(zip(look.images, lefts, strict=False)):
            cell = _middle(rgba, CELL) if column else _whole(rgba, size)
            image.paste(cell, (left, top), cell)
    draw.text((EDGE, height - 28), sheet.credit, PALE, small)
    with writing(path) as part:
        image.save(part, "PNG")


def heading(picture: Picture) -> str:
    """Return what a picture shows: its title, and of a place longitude and latitude."""
    if picture.frame is not None:
        return picture.title
    where = "{:.3f}, {:.3f}".format(*picture.place)
    return f"{picture.title}  {where}"


def _draw_label(image: Image.Image, look: Look, top: int, fonts: tuple) -> None:
    """Draw the name, words, histogram and shares of a look at the left of its row."""
    small, text = fonts
    draw = ImageDraw.Draw(image)
    draw.line((EDGE, top, EDGE + LABELS - 30, top), FRAME)
    large, name = ImageFont.load_default(19), look.name
    while draw.textlength(name, large) > LABELS - 90:
        name = name.removesuffix("…")[:-1] + "…"
    draw.text((EDGE, top + 12), name, INK, large)
    if look.used:
        left = EDGE + draw.textlength(name, large) + 10
        draw.text((left, top + 16), "in use", ACCENT, text)
    words = textwrap.wrap(look.description, 40)[:4]
    draw.text((EDGE, top + 42), "\n".join(words), PALE, small, spacing=5)
    figures = look.figures[0]
    image.paste(_histogram(figures), (EDGE, top + 132))
    for line, (name, share) in enumerate(
        (("shadows clipped", figures.shadows), ("highlights clipped", figures.highlights))
    ):
        y = top + 132 + HISTOGRAM[1] + 12 + 22 * line
        draw.text((EDGE, y), name, PALE, small)
        draw.text((EDGE + HISTOGRAM[0], y), share_text(share), INK, small, anchor="ra")


def _histogram(figures: Figures) -> Image.Image:
    """Return a drawing of a histogram: where bands overlap, their inks multiply."""
    width, height = (side * FINER for side in HISTOGRAM)
    drawing = Image.new("RGB", (width, height), PAPER)
    for heights, ink in zip(figures.heights, BANDS, strict=True):
        layer = Image.new("RGB", (width, height), "white")
        tint = Image.blend(Image.new("RGB", (1, 1), ink), Image.new("RGB", (1, 1), "white"), 0.45)
        x = np.linspace(0, width, 256)
        curve = [(a, height * (1 - b)) for a, b in zip(x.tolist(), heights.tolist(), strict=True)]
        ImageDraw.Draw(layer).polygon([(0, height), *curve, (width, height)], tint.getpixel((0, 0)))
        drawing = ImageChops.multiply(drawing, layer)
    ImageDraw.Draw(drawing).line((0, height - 1, width, height - 1), PALE, FINER)
    return drawing.resize(HISTOGRAM, Image.Resampling.BOX)


def _whole(rgba: RGBA, size: tuple[int, int]) -> Image.Image:
    """Return a map, reduced or enlarged to an image of `size` (width, height)."""
    way = Image.Resampling.BOX if len(rgba) > size[1] else Image.Resampling.NEAREST
    return Image.fromarray(rgba).resize((max(1, size[0]), max(1, size[1])), way)


def _middle(rgba: RGBA, side: int) -> Image.Image:
    """Return the middle of a crop, pixel by pixel, or all of it, enlarged to `side`."""
    top, left = (max(0, (length - side) // 2) for length in rgba.shape[:2])
    middle = Image.fromarray(rgba[top : top + side, left : left + side])
    scale = side / max(middle.size)
    size = [round(length * scale) for length in middle.size]
    cell = Image.new("RGBA", (side, side))
    cell.paste(middle.resize(size, Image.Resampling.NEAREST))
    return cell


def write_page(path: Path, sheet: Sheet) -> None:
    """Write the sheet as one HTML page that needs no other file, with the pictures in full."""
    places = [
        {
            "heading": picture.title,
            "where": "" if picture.frame else "{:.4f}, {:.4f}".format(*picture.place),
            "pixel": f"{picture.pixel:.0f} m",
            "shots": [
                {
                    "name": look.name,
                    "used": look.used,
                    "image": _data_uri(look.images[number]),
                    "width": picture.dn.shape[1],
                    "height": picture.dn.shape[0],
                    "shadows": share_text(look.figures[number].shadows),
                    "highlights": share_text(look.figures[number].highlights),
                    "curves": [_path(heights) for heights in look.figures[number].heights],
                }
                for look in sheet.looks
            ],
        }
        for number, picture in enumerate(sheet.pictures)
    ]
    page = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    with writing(path) as part:
        part.write_text(
            page.render(sheet=sheet, places=places, inks=BANDS) + "\n", encoding="utf-8"
        )


def _data_uri(rgba: RGBA) -> str:
    encoded = io.BytesIO()
    Image.fromarray(rgba).save(encoded, "WEBP", quality=QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()


def _path(heights: np.ndarray) -> str:
    """Return a curve of a histogram as the path of an SVG of 255 x 100."""
    points = " ".join(f"L{x} {100 * (1 - y):.1f}" for x, y in enumerate(heights))
    return f"M0 100 {points} L255 100 Z"
