"""A map as its readers are told of it: where its web tiles are, its zooms, bounds and credit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basemake.pixels.archive import read_about
from basemake.pixels.tilejson import tilejson

PMTILES = "pmtiles://"
ZXY = "/{z}/{x}/{y}"
GROUND = "#6b7278"  # shown where a map has no pixel, if it has no background of its own


@dataclass(frozen=True)
class Shown:
    """A map for a reader.

    `told` is its TileJSON. The sides of its web tiles are `tile_size` px. `title` is plain text,
    `ground` the colour of what it does not show, such as #12304a.
    """

    told: dict[str, Any]
    tile_size: int
    title: str
    ground: str

    @classmethod
    def of(cls, archive: Path, tiles: str, title: str, ground: str | None = None) -> "Shown":
        """Return the map of a PMTiles archive, whose web tiles readers find at `tiles`.

        That is an address with {z}, {x} and {y}, which `in_archive` makes for those inside an
        archive. Raises TileError if the archive is incomplete.
        """
        header, metadata = read_about(archive)
        told = tilejson(header, metadata, tiles)
        return cls(told, metadata["tile_size"], title, ground or GROUND)

    @property
    def credit(self) -> str:
        """The attribution as HTML, which is how readers show it."""
        return str(self.told["attribution"])

    @property
    def archive(self) -> str | None:
        """The address of the archive with the web tiles; None if each has an address of its own."""
        (tiles,) = self.told["tiles"]
        if not tiles.startswith(PMTILES):
            return None
        return str(tiles.removeprefix(PMTILES).removesuffix(ZXY))


def in_archive(address: str) -> str:
    """Return the address of the web tiles in a PMTiles archive, as MapLibre's protocol has it."""
    return f"{PMTILES}{address}{ZXY}"
