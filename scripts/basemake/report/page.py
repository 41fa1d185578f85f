"""The page of a report: HTML that needs no other file, no network and no script."""

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment

from basemake import __version__
from basemake.build.paths import MANIFEST
from basemake.build.reasons import NEW
from basemake.errors import ConfigError
from basemake.forecast.briefing import in_bytes, in_time
from basemake.look.figures import share_text
from basemake.report.contents import (
    MOST_TILES,
    Subject,
    maps_of,
    needs_of,
    reasons_of,
    state_of,
    tiles_of,
    uses_of,
)
from basemake.report.flow import NODE, draw_flow
from basemake.report.software import software
from basemake.system.files import writing

TEMPLATE = Path(__file__).parent / "page.html"
FEW = 12  # names, up to which they are listed
STATES = {"fresh": "up to date", "new": NEW, "stale": "not up to date"}
# Settings of a source that concern how it is asked, not what is shown.
NOT_TOLD = {"limits", "credentials", "hosts"}


def write_page(path: Path, subject: Subject, written: datetime) -> None:
    """Write the report of a build; `written` is the date that it states.

    Equal builds, dates and installed software give equal bytes. What cannot be read of the build is
    left out. Raises ConfigError if the file cannot be written, and TileError if the disk is full.
    """
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {
        "bytes": lambda size: _on_one_line(in_bytes(size)),
        "time": lambda seconds: _on_one_line(_in_time(seconds)),
        "share": lambda share: _on_one_line(share_text(share)),
        "names": _names,
        "date": lambda text: str(text)[:10],
    }
    text = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **_told(subject), written=written.astimezone(UTC), version=__version__
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as part:
            part.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--report is {str(path)!r}, which cannot be written ({error.strerror})."
        ) from None


def _told(subject: Subject) -> dict[str, Any]:
    """Return what the template shows."""
    tiles, graph, uses = tiles_of(subject), subject.graph, uses_of(subject.graph)
    source = {key: value for key, value in asdict(subject.source).items() if value is not None}
    return {
        "subject": subject,
        "title": f"{', '.join(subject.layout.regions)}, {subject.config['quarter']}",
        "jobs": len(graph.jobs),
        "fresh": len(graph.jobs) - len(graph.stale),
        "made": any(state_of(job) != "new" for job in graph.jobs),
        "reasons": reasons_of(graph),
        "maps": maps_of(subject, {one.tile.name for one in tiles}),
        "tiles": tiles,
        "most_tiles": MOST_TILES,
        "states": STATES,
        "uses": uses,
        "flow": draw_flow(needs_of(graph)),
        "node_size": NODE,
        "manifest": _manifest(subject),
        "config": _as_yaml(subject.config),
        "recipe": _as_yaml([{"step": step["step"], **step} for step in subject.steps]),
        "source": _as_yaml({key: value for key, value in source.items() if key not in NOT_TOLD}),
        "software": software(),
    }


def _manifest(subject: Subject) -> dict[str, Any]:
    """Return what the manifest is of, and which items it has."""
    tiles = [*subject.layout.tiles.values()]
    items = [item for tile in tiles for item in tile.items]
    updates = sorted(item.updated for item in items if item.updated)
    sizes = [band.size for item in items for band in item.bands.values()]
    content = MANIFEST.read_bytes()
    return {
        "path": MANIFEST,
        "sha256": hashlib.sha256(content).hexdigest(),
        "changed": datetime.fromtimestamp(MANIFEST.stat().st_mtime, UTC),
        "tiles": len(tiles),
        "all_items": len(items),
        "zones": sorted({tile.epsg for tile in tiles}),
        "updates": updates,
        "bytes": None if None in sizes else sum(sizes),
        "request": json.loads(content)["request"],
    }


def _as_yaml(value: Any) -> str:
    plain = json.loads(json.dumps(value))  # Snakemake's config has mappings of other types
    return yaml.safe_dump(
        plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=88
    )


def _on_one_line(text: str) -> str:
    return text.replace(" ", "\xa0")


def _in_time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else in_time(seconds)


def _names(names: list[str]) -> str:
    """Return names joined by commas, of which only the first FEW are told."""
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
