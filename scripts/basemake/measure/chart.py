"""Charts as PNG: rows of figures, and one panel of bars for each of their columns."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

INK, PALE, STRONG, WEAK = "#222222", "#777777", "#1b7f5c", "#a9b8b3"
LINE, BAR, EDGE, LABELS, GAP = 26, 16, 20, 320, 24  # pixels
FIGURE = 90  # pixels kept at the right of a bar for its figure
PANEL = 300  # pixels of a column


class Row(NamedTuple):
    """A row: its name, a figure or None for each column, and whether its bars are highlighted."""

    name: str
    figures: list[float | None]
    strong: bool = False


def draw_bars(path: Path, title: str, columns: list[str], groups: dict[str, list[Row]]) -> None:
    """Write a PNG chart of `groups` (heading: rows); columns have a scale of their own a group."""
    height = 3 * LINE + sum((len(rows) + 1.5) * LINE for rows in groups.values())
    width = 2 * EDGE + LABELS + len(columns) * (PANEL + GAP)
    image = Image.new("RGB", (width, 2 * EDGE + round(height)), "white")
    draw = ImageDraw.Draw(image)
    text, small, large = (ImageFont.load_default(size) for size in (15, 13, 19))
    y = EDGE
    draw.text((EDGE, y), title, INK, large)
    y += 2 * LINE
    lefts = [EDGE + LABELS + number * (PANEL + GAP) for number in range(len(columns))]
    for left, column in zip(lefts, columns, strict=True):
        draw.text((left, y), column, PALE, text)
    y += LINE
    for heading, rows in groups.items():
        y += LINE // 2
        draw.text((EDGE, y), heading, PALE, text)
        y += LINE
        largest = [max([x for x in c if x is not None], default=0) for c in _columns(rows)]
        for row in rows:
            draw.text((EDGE + 10, y), row.name, INK, text)
            for left, figure, top in zip(lefts, row.figures, largest, strict=True):
                length = 0.0
                if figure is not None and top > 0:
                    length = (PANEL - FIGURE) * figure / top
                    colour = STRONG if row.strong else WEAK
                    draw.rectangle((left, y + 2, left + max(1, length), y + 2 + BAR), colour)
                draw.text((left + length + 6, y + 2), readable(figure), INK, small)
            y += LINE
    image.save(path, "PNG", optimize=True)


def readable(figure: float | None) -> str:
    """Return a figure as text with at least three significant digits, or a dash for None."""
    if figure is None:
        return "-"
    digits = 0 if abs(figure) >= 100 else 1 if abs(figure) >= 10 else 2
    return f"{figure:,.{digits}f}"


def _columns(rows: list[Row]) -> list[tuple[float | None, ...]]:
    return list(zip(*(row.figures for row in rows), strict=True))
