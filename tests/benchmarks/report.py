"""Results of benchmarks and their targets, as text, JSON and chart."""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from basemake.measure.chart import Row, draw_bars, readable
from benchmarks.measure import Usage

COLUMNS = ("CPU s", "wall s", "peak MB", "MB", "dB", "requests")
UNKNOWN = readable(None)
ALWAYS = 3  # of these are in each table, the others where there is something to tell


@dataclass
class Measured:
    """Several runs of one program.

    If it is missing, `runs` is empty and `note` tells why; if only its size is known, `runs` is
    empty and `megabytes` is not None.
    """

    name: str
    runs: list[Usage] = field(default_factory=list)
    megabytes: float | None = None
    psnr: float | None = None
    requests: int | None = None
    note: str = ""
    own: bool = False

    @property
    def missing(self) -> bool:
        """Whether nothing is known of it."""
        return not self.runs and self.megabytes is None

    def median(self, figure: str) -> float | None:
        """Return the median of cpu, wall or peak over the runs, or another figure; or None."""
        if figure not in Usage._fields:
            return getattr(self, figure)
        return median(getattr(usage, figure) for usage in self.runs) if self.runs else None


@dataclass
class Check:
    """A target: `value` at most (or at least) `limit`; None where it could not be measured."""

    what: str
    value: float | None
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where that is not known."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Section:
    """One part of the benchmark: what was measured, targets, and remarks for the reader.

    `tables` are lines of Markdown for what does not fit into the columns of the others.
    """

    title: str
    measured: list[Measured]
    checks: list[Check] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)


def ratio(ours: Measured, theirs: Measured, figure: str) -> float | None:
    """Return the ratio of two medians, or None where one is missing."""
    a, b = ours.median(figure), theirs.median(figure)
    return a / b if a is not None and b else None


def difference(ours: Measured, theirs: Measured) -> float | None:
    """Return by how many dB the PSNR of the first is higher; None where one is missing."""
    return None if ours.psnr is None or theirs.psnr is None else ours.psnr - theirs.psnr


def spread(values: Sequence[float]) -> str:
    """Return "median (min..max)", or the value alone where there is one."""
    if len(values) == 1:
        return readable(values[0])
    return f"{readable(median(values))} ({readable(min(values))}..{readable(max(values))})"


def as_text(section: Section) -> str:
    """Return a section as a table in text."""
    head = ("", *COLUMNS)
    body: list[tuple[str, ...]] = []
    for row in section.measured:
        if row.missing:
            body.append((row.name, f"missing: {row.note}", *[""] * (len(COLUMNS) - 1)))
            continue
        spreads = [
            spread([getattr(u, name) for u in row.runs]) if row.runs else UNKNOWN
            for name in Usage._fields
        ]
        figures = [readable(figure) for figure in (row.megabytes, row.psnr)]
        requests = UNKNOWN if row.requests is None else str(row.requests)
        body.append((row.name, *spreads, *figures, requests))
    told = [
        n
        for n in range(len(head))
        if n <= ALWAYS or any(cells[n] not in ("", UNKNOWN) for cells in body)
    ]
    table = [tuple(cells[n] for n in told) for cells in (head, *body)]
    lines = ["", section.title, "=" * len(section.title)]
    lines += [*(_aligned(table) if body else []), *section.tables]
    for remark in section.remarks:
        lines += textwrap.wrap(remark, 100, initial_indent="  ", subsequent_indent="  ")
    for check in section.checks:
        word = {True: "met", False: "NOT MET", None: "not measured"}[check.met]
        bound = "at least" if check.at_least else "at most"
        unit = f" {check.unit}" if check.unit else ""
        value = f"{readable(check.value)}{unit}"
        lines.append(f"  [{word}] {check.what}: {value} (target: {bound} {check.limit:g}{unit})")
    return "\n".join(lines)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows as lines with aligned cells; a note in place of figures is not aligned."""
    full = [row for row in rows if any(row[2:])]
    widths = [max(len(row[n]) for row in full) for n in range(len(rows[0]))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for name, *cells in rows:
        if any(cells[1:]):
            texts = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        else:
            texts = [cells[0]]
        lines.append("  ".join([name.ljust(widths[0]), *texts]).rstrip())
    return lines


def write_json(path: Path, context: dict[str, Any], sections: list[Section]) -> None:
    """Write all runs and checks, and their `context`, as JSON."""
    content = [
        {
            "title": section.title,
            "remarks": section.remarks,
            "tables": section.tables,
            "measured": [
                {**asdict(row), "runs": [_rounded(run) for run in row.runs]}
                for row in section.measured
            ],
            "checks": [{**asdict(check), "met": check.met} for check in section.checks],
        }
        for section in sections
    ]
    path.write_text(json.dumps({**context, "sections": content}, indent=1, ensure_ascii=False))


def write_chart(path: Path, title: str, sections: list[Section]) -> None:
    """Write a chart of the medians."""
    figures: list[Callable[[Measured], float | None]] = [
        lambda row: row.median("cpu"),
        lambda row: row.median("wall"),
        lambda row: row.median("peak"),
        lambda row: row.megabytes,
    ]
    groups = {
        section.title: [
            Row(
                row.name + (" (missing)" if row.missing else ""), [f(row) for f in figures], row.own
            )
            for row in section.measured
        ]
        for section in sections
        if section.measured
    }
    draw_bars(path, title, list(COLUMNS[:4]), groups)


def _rounded(usage: Usage) -> dict[str, float]:
    return {name: round(value, 3) for name, value in usage._asdict().items()}
