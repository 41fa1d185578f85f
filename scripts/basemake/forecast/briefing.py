"""A plan as text: what `make plan` prints without --json."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from typing import Any

WIDTH = 96
FEW = 12  # tiles, up to which they are named
# What is estimated from the jobs or files of this directory, by the keys of figures_from_jobs_here.
FIGURES = {
    "fetch_bands": "seconds of downloads",
    "enhance_tile": "of tiles",
    "render_metatile": "of web tiles",
    "size_of_tiles": "bytes of tiles",
    "size_of_pyramid": "bytes of web tiles",
}


def brief(plan: dict[str, Any]) -> str:
    """Return a plan as text of at most 100 columns, unless a path or name is longer.

    `plan` is what `forecast` returns, with `arguments`, those of snakemake.
    """
    lines = [f"Plan of {plan['quarter']} from {plan['source']}, in {plan['directory']}", ""]
    for name, region in plan["regions"].items():
        lines += [*_region(name, region), ""]
    causes = list(_causes(plan))
    if causes:
        lines += ["Why stale:", *causes, ""]
    if plan["files"]:
        lines += [*_stages(plan["stages"]), "", *_totals(plan), ""]
    else:
        lines += ["Nothing to do: all is there and fresh.", *shown_items(plan["tiles"]), ""]
    for warning in plan["warnings"]:
        lines += [f"WARNING: {warning}", ""]
    arguments = "".join(f" {shlex.quote(argument)}" for argument in plan["arguments"])
    lines += [
        f"Map of it: {plan['map']}",
        f"Each job and its reason:  snakemake -n{arguments}",
        f"To run it:                snakemake{arguments}",
    ]
    return "\n".join(lines)


def _region(name: str, region: dict[str, Any]) -> Iterator[str]:
    """Yield a region's heading and its table of jobs by stage and state."""
    zooms = region["zooms"]
    tiles = f"{region['tiles']} tile{'s' if region['tiles'] > 1 else ''}"
    yield f"{name}: {tiles}, web map of zooms {zooms['min']} to {zooms['max']}"
    yield f"  {'jobs':10}{'new':>7}{'stale':>7}{'fresh':>7}"
    for stage, counts in region["stages"].items():
        yield f"  {stage:10}{counts['new']:7,}{counts['stale']:7,}{counts['fresh']:7,}"


def _causes(plan: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each stage and reason of stale jobs, with their number."""
    for stage, counts in plan["stages"].items():
        for why, number in counts["why"].items():
            yield f"  {stage:10}{number:7,}  {why}"


def _stages(stages: dict[str, dict]) -> Iterator[str]:
    """Yield the table of bytes and CPU time by stage, with a row of sums."""
    yield f"{'':12}{'download':>12}{'disk now':>12}{'disk after':>12}{'CPU time':>12}"
    keys = ("download_bytes", "disk_now_bytes", "disk_after_bytes")
    sums = [sum(stage[key] for stage in stages.values()) for key in keys]
    seconds = sum(stage["cpu_seconds"] for stage in stages.values())
    rows = {
        stage: ([row[key] for key in keys], row["cpu_seconds"]) for stage, row in stages.items()
    }
    for stage, (sizes, cpu) in {**rows, "all": (sums, seconds)}.items():
        cells = "".join(f"{in_bytes(size) if size else '-':>12}" for size in sizes)
        yield f"  {stage:10}{cells}{in_time(cpu) if cpu else '-':>12}"


def _totals(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the paragraphs on tiles, downloads, disk, memory, time and cost of the whole run."""
    download, disk, memory = plan["download"], plan["disk"], plan["memory"]
    for state, words in (("download", "To download"), ("new", "New"), ("stale", "Stale")):
        names = [name for name, tile in plan["tiles"].items() if tile["state"] == state]
        if 0 < len(names) <= FEW:
            yield _line(words, ", ".join(names))
    if download["files"]:
        text = f"{in_bytes(download['bytes'])} in {download['files']:,} files"
        if download["already_here_bytes"]:
            text += f"; of others {in_bytes(download['already_here_bytes'])} are here in part"
        if download["files_of_unknown_size"]:
            text += (
                f"; {download['files_of_unknown_size']:,} are of unknown size, assumed to be"
                " 1.5 bytes a pixel"
            )
        if download["filling_bytes"]:
            text += (
                f"; {in_bytes(download['filling_bytes'])} of them to fill holes, whose number is"
                " assumed until the first items are here"
            )
        yield _line("Download" if download["over_the_network"] else "Copy", text)
    yield from shown_items(plan["tiles"])
    peak, free = f"{in_bytes(disk['peak_bytes'])} at the peak", in_bytes(disk["free_bytes"])
    kept = f"{in_bytes(disk['after_bytes'])} after, {in_bytes(disk['now_bytes'])} now"
    if disk["in_bucket"]:
        yield _line("Bucket", kept)
        yield _line("Disk", f"{peak}, for files at work; {free} are free")
    else:
        yield _line("Disk", f"{peak}, {kept}; {free} are free")
    yield _line(
        "Memory",
        f"{in_bytes(memory['at_a_time_bytes'])} for the jobs that run at a time; the machine has"
        f" {in_bytes(memory['machine_bytes'])}",
    )
    yield from _time(plan)


def shown_items(tiles: dict[str, dict]) -> Iterator[str]:
    """Yield what finished tiles show of which item, if they may show several."""
    made = [tile for tile in tiles.values() if "items" in tile]
    made = [tile for tile in made if any(tile["items"].values()) or tile["hidden"]]  # not of empty
    if made:
        filled = sum(sum([*tile["items"].values()][1:]) for tile in made) / len(made)
        beneath = sum(tile["hidden"] for tile in made) / len(made)
        text = f"{filled:.1%} of what {len(made):,} finished tiles show is of items that fill holes"
        hidden = f"; {beneath:.1%} is hidden by the masks of all" if beneath > 0.0005 else ""
        yield _line("Holes", text + hidden)


def _time(plan: dict[str, Any]) -> Iterator[str]:
    download, time, cost = plan["download"], plan["time"], plan["cost"]
    alone = f"computing alone takes {in_time(time['compute_seconds'])}"
    if download["files"]:
        rate = download["bytes_per_second"] if download["over_the_network"] else None
        pace = f" (at {in_bytes(rate)}/s)" if rate else ""
        alone += f", downloads alone {in_time(time['network_seconds'])}{pace}"
    yield _line(
        "Time",
        f"about {in_time(time['wall_seconds'])} with {plan['cores']} cores and"
        f" {plan['connections']} connections, bound by the {time['bound_by']}: {alone}",
    )
    yield _line("Figures", _figures(plan["figures_from_jobs_here"]))
    hand = cost["hand_made"]
    usd = f"${cost['usd']:.2f}" if cost["usd"] >= 0.01 else "$0.01 or less"
    yield _line(
        "Cost",
        f"{usd} on rented cores at ${cost['price_per_vcpu_hour']:g} a vCPU hour"
        f" (a pipeline made by hand for {hand['tiles']} tiles:"
        f" ${hand['usd'][0]}-{hand['usd'][1]} a run)",
    )


def _figures(jobs_here: dict[str, int]) -> str:
    """Return where the estimates come from; `jobs_here` counts jobs or files by rule or size."""
    shipped = "as shipped with basemake (4 cores, 100 Mbit/s, Sentinel-2 at 10 m)"
    own = [f"{words} ({jobs_here[rule]:,})" for rule, words in FIGURES.items() if jobs_here[rule]]
    rest = [words for rule, words in FIGURES.items() if not jobs_here[rule]]
    if not own:
        return f"{shipped}: nothing was done in this directory yet"
    text = f"from what was done in this directory: {', '.join(own)}"
    return f"{text}; {shipped}: {', '.join(rest)}" if rest else text


def _line(label: str, text: str) -> str:
    """Return a wrapped paragraph after a label; a number stays on the line of the word after it."""
    together = re.sub(r"(?<=\d) (?=[A-Za-z])", "\xa0", text)
    lines = textwrap.wrap(together, WIDTH - 12, break_on_hyphens=False)
    heads = [label] + [""] * len(lines)
    text = "\n".join(f"{head:12}{line}" for head, line in zip(heads, lines, strict=False))
    return text.replace("\xa0", " ")


def in_bytes(size: float) -> str:
    """Return a number of bytes as text of three digits, such as 38.3 GB (decimal units)."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * one:
            return f"{size / one:.3g} {unit}" if size < 999.5 * one else f"{size / one:,.0f} {unit}"
    return f"{size:.0f} B"


def in_time(seconds: float) -> str:
    """Return a number of seconds as text, such as 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else "1 s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 24 else f"{hours:,} h"
