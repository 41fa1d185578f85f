"""A picture of a map's seams as PNG: the map, pale, and its lines in the colours of their steps."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from basemake.measure.seams import Step

MOST, EDGE, LINE, LEAST_WIDTH = 1000, 20, 26, 520  # pixels
INK = "#222222"
COLOURS = ["#2a9d8f", "#e9c46a", "#f4a261", "#e63946", "#7b1fa2"]
LIMITS = [2, 4, 8, 12]  # levels, from which on a step has the next of COLOURS
PALE = 0.55  # how much of the map is white


def draw_seams(
    path: Path,
    title: str,
    colours: NDArray[np.uint8],
    labels: NDArray[np.int16],
    kinds: dict[str, list[Step]],
) -> None:
    """Write a PNG of `colours`, (height, width, 3), with the lines of `kinds` of steps.

    `labels` is -1 where no tile shows: there it is white.
    """
    rows, columns = (np.flatnonzero((labels >= 0).any(axis=axis)) for axis in (1, 0))
    first = rows[0], columns[0]
    factor = max(1, -(-max(rows[-1] - first[0], columns[-1] - first[1]) // MOST))
    window = np.s_[first[0] : rows[-1] + 1 : factor, first[1] : columns[-1] + 1 : factor]
    shown = labels[window][..., np.newaxis] >= 0
    pale = 255 * PALE + colours[window] * (1 - PALE)
    land = Image.fromarray(np.where(shown, pale, 255).astype(np.uint8))
    size = max(land.width + 2 * EDGE, LEAST_WIDTH), land.height + 2 * EDGE + 4 * LINE
    image = Image.new("RGB", size, "white")
    left, top = (size[0] - land.width) // 2, EDGE + LINE
    image.paste(land, (left, top))
    draw = ImageDraw.Draw(image)
    steps = [step for found in kinds.values() for step in found]
    for step in sorted(steps, key=lambda step: step.size):
        x = left + (step.x - first[1]) // factor
        y = top + (step.y - first[0]) // factor
        for box in np.stack([x - 1, y - 1, x + 1, y + 1], axis=1).tolist():
            draw.rectangle(box, _colour(step.size))
    draw.text((EDGE, EDGE // 2), title, INK, ImageFont.load_default(19))
    _write_legend(draw, size[1] - 3 * LINE, {kind: len(found) for kind, found in kinds.items()})
    image.save(path, "PNG", optimize=True)


def _colour(size: float) -> str:
    return COLOURS[int(np.searchsorted(LIMITS, size, side="right"))]


def _write_legend(draw: ImageDraw.ImageDraw, y: int, counts: dict[str, int]) -> None:
    """Write the number of lines of each kind, and which colour is which step."""
    font = ImageFont.load_default(14)
    words = ", ".join(f"{count} of {kind}" for kind, count in counts.items())
    draw.text((EDGE, y), f"Lines measured: {words}. Their steps, in levels:", INK, font)
    ranges = [
        f"below {LIMITS[0]}",
        *(f"{low} to {high}" for low, high in pairwise(LIMITS)),
    ]
    x = EDGE
    for colour, text in zip(COLOURS, [*ranges, f"{LIMITS[-1]} and more"], strict=True):
        draw.rectangle((x, y + LINE, x + 20, y + LINE + 14), colour, INK)
        draw.text((x + 26, y + LINE), text, INK, font)
        x += 96
