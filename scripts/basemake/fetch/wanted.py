"""A band that is wanted, and the files that its job works in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basemake.build.bands import Cut, Need, cut_of
from basemake.pixels.blocks import Image, numbers_of, runs_of, transform_of
from basemake.pixels.fill import Holes
from basemake.system.files import part_of
from basemake.web.addresses import without_secrets
from basemake.web.download import Promised


@dataclass(frozen=True)
class Wanted:
    """A band to fetch: from `href`, a path or an address, to `output`.

    `identity` is that of the band (see `Band.identity`); `name` is what errors call it. `need` is
    what the map needs of it, None for all; `epsg` is the CRS of its tile. If `holes` are given,
    only blocks that cover one are needed. `is_mask` is whether it is the mask of an item.
    """

    href: str
    output: Path
    promised: Promised
    identity: dict[str, Any]
    name: str = ""
    need: Need | None = None
    epsg: int = 0
    holes: Holes | None = None
    is_mask: bool = False

    def cut(self, images: tuple[Image, ...], transform: Sequence[float]) -> Cut:
        """Return the part of its object that is needed, of which some is; as `cut_of`."""
        assert self.need is not None
        cut = cut_of(self.need, images, tuple(transform), self.epsg)
        # Without nodata, blocks that are not here could not be told from others.
        if self.holes is None or self.need.nodata is None:
            return cut
        place = transform_of(images, transform, cut.level)
        covering = self.holes.blocks(images[cut.level], place, self.need.around)
        return Cut(cut.level, runs_of(n for n in numbers_of(cut.blocks) if n in covering))

    def beside(self, end: str = "") -> Path:
        """Return the path of a file that its job works in."""
        part = part_of(self.output)
        return part.with_name(part.name + end)

    @property
    def place(self) -> str:
        """The href as it may be shown."""
        return without_secrets(self.href)

    @property
    def title(self) -> str:
        """Name and href, as errors begin."""
        return f"{self.name}: {self.place}" if self.name else self.place
