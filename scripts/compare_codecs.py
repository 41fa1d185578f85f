"""Compare codecs on enhanced tiles: bytes, seconds to encode and decode, and exactness."""

import csv
import logging
from pathlib import Path
from typing import Any

from basemake.measure.chart import Row, draw_bars
from basemake.measure.codecs import HEADINGS, Outcome, Profile, measure, profiles, sample


def compare_codecs(tiles: list[Path], folder: Path, seconds: float) -> str:
    """Return a table of all profiles as text; write it to `folder` as codecs.tsv and codecs.png.

    Every profile encodes and decodes the same blocks of `tiles`, until `seconds` of CPU are spent.
    Raises TileError if no block has enough valid pixels.
    """
    blocks, tile_pixels = sample(tiles)
    outcomes = measure(profiles(), blocks, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(outcome, outcome.figures(tile_pixels)) for outcome in outcomes]
    with (folder / "codecs.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["codec", *HEADINGS, "exact", "tile_codec"])
        for outcome, figures in rows:
            numbers = [f"{figure:.4g}" for figure in figures]
            exact = "yes" if outcome.exact else "no"
            writer.writerow([outcome.profile.name, *numbers, exact, outcome.profile.used_as])
    sampled = f"{outcomes[0].pixels / 1e6:.1f} Mpx of {len(tiles)} enhanced tile(s)"
    title = f"Lossless codecs on {sampled}, one core"
    chart = [Row(_label(o.profile), list(f[3:]), bool(o.profile.used_as)) for o, f in rows]
    draw_bars(folder / "codecs.png", title, list(HEADINGS[3:]), {"a whole tile": chart})
    logging.info("%s; %s", title, ", ".join(map(str, tiles)))
    side = round(tile_pixels**0.5)
    return (
        f"{title}; a tile of {side} x {side} px\n{_table(rows)}\n"
        f"{folder}/codecs.tsv, {folder}/codecs.png: written"
    )


def _label(profile: Profile) -> str:
    return profile.name + (f"  ({profile.used_as})" if profile.used_as else "")


def _table(rows: list[tuple[Outcome, list[float]]]) -> str:
    """Return the outcomes as lines of text."""
    lines = [f"{'codec':<36}" + "".join(f"{heading:>14}" for heading in HEADINGS) + "  exact"]
    for outcome, figures in rows:
        numbers = "".join(
            f"{figure:>14.{digits}f}"
            for figure, digits in zip(figures, (3, 1, 1, 1, 1, 1), strict=True)
        )
        lines.append(f"{_label(outcome.profile):<36}{numbers}  {'yes' if outcome.exact else 'NO'}")
    return "\n".join([*lines, "In brackets: the value of tile_codec that selects it."])


if __name__ == "__main__":
    snakemake: Any  # put here by Snakemake

    from basemake.pixels.raster import set_up_libraries
    from basemake.system.job_log import job_log

    with job_log(snakemake.log[0]):
        set_up_libraries(snakemake.config["gdal_cache_mb"])
        table = compare_codecs(
            [Path(path) for path in snakemake.input],
            Path(snakemake.params.folder),
            snakemake.params.seconds,
        )
        print(table, flush=True)
