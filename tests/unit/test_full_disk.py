"""Every job that writes a file ends in one sentence when the disk is full, and leaves nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import shapely

from basemake.errors import TileError
from basemake.pixels.archive import write_part
from basemake.pixels.dn import DnReading
from basemake.pixels.vrt import build_mosaic, build_warped
from basemake.pixels.webtiles import WebTile
from basemake.preview.thumbnail import write_thumbnail
from build_index import build_index
from build_preview import Told, build_preview
from enhance_tile import Enhancement, enhance_tile
from export_cog import Part, export_cog
from export_folder import export_folder
from export_mbtiles import export_mbtiles
from pack_pyramid import pack_pyramid
from render_metatile import Rendering, render_metatile
from render_overview import render_overview

# The package pmtiles leaves its database open when it fails, of which Python tells from 3.13 on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    # What GDAL could not write it tries once more when Python deletes its dataset.
    pytest.mark.filterwarnings("ignore:.*delete_Dataset:pytest.PytestUnraisableExceptionWarning"),
]
SIDE = 1100  # pixels of 100 m: an enhanced tile with two reduced images
METATILE = WebTile(8, 138, 92)
DRAWING = {"image_format": "webp", "quality": "lossless"}
OUTLINE = {"type": "Polygon", "coordinates": [[[15, 45], [16, 45], [15, 46], [15, 45]]]}
TOLD = Told(
    **dict.fromkeys(("title", "quarter", "source", "recipe"), "x"),
    footprints={"type": "FeatureCollection", "features": []},
    items={},
    outline=OUTLINE,
    clip=True,
)
MAPS = {Path(f"{n}.html"): {"title": "x", "zooms": [0, 1], "bytes": 1} for n in range(9)}


class Inputs(NamedTuple):
    """What the jobs read: rough bands and bands of one colour, and what is made of the former."""

    bands: list[Path]
    plain: list[Path]
    tile: Path
    archive: Path
    root: Path
    pyramid: Path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, write_geotiff) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    rough = np.random.default_rng(1).integers(0, 4000, (SIDE, SIDE)).astype(np.int16)
    bands = {
        name: [write_geotiff(folder / f"{name}.tif", dn, pixel=100.0)] * 3
        for name, dn in (("rough", rough), ("plain", np.full_like(rough, 900)))
    }
    names = ("tile.tif", "8.pmtiles", "8.tif", "pyramid.pmtiles")
    made = Inputs(bands["rough"], bands["plain"], *(folder / name for name in names))
    write_tile(made, made.tile)
    render_root_and_archive(made, made.archive, made.root)
    pack(made, made.pyramid)
    return made


RENDERING = Rendering(
    min_zoom=8,
    max_zoom=10,
    tile_size=256,
    resampling="bilinear",
    outline=None,
    overlap="top",
    **DRAWING,
)


def write_tile(inputs: Inputs, output: Path, bands: list[Path] | None = None) -> None:
    enhance_tile(
        bands or inputs.bands,
        output,
        Enhancement(32633, [], DnReading(0.0001, 0.0, -32768), "zstd"),
        metadata={"TIFFTAG_COPYRIGHT": "« Copernicus »"},
        threads=2,
    )


def render_root_and_archive(inputs: Inputs, archive: Path, root: Path) -> None:
    render_metatile(
        METATILE,
        [inputs.tile],
        archive,
        root,
        RENDERING,
        threads=2,
        made_of="these",
    )


def pack(inputs: Inputs, output: Path) -> None:
    metadata = {"attribution": "« Copernicus »", "tile_size": 256, "format": "webp"}
    metadata |= {"name": "demo", "description": "a test"}  # of which a folder's TileJSON is made
    extent = shapely.box(15, 45, 16, 46)
    pack_pyramid([inputs.archive], output, extent=extent, image_format="webp", metadata=metadata)


def cog(inputs: Inputs, output: Path) -> None:
    export_cog({METATILE: Part([inputs.tile], None)}, output, RENDERING, METATILE.bounds)


WRITERS: dict[str, Callable[[Inputs, Path], object]] = {
    "enhance_tile": write_tile,
    # Its reduced images, waiting to be encoded, are larger than all of the tile.
    "enhance_tile, spilling": lambda i, output: write_tile(i, output, i.plain),
    "render_metatile, archive": lambda i, output: render_root_and_archive(
        i, output, output.with_suffix(".root")
    ),
    "render_metatile, root": lambda i, output: render_root_and_archive(
        i, output.with_suffix(".archive"), output
    ),
    "write_part": lambda i, output: write_part(output, [(METATILE, bytes(99))], "webp"),
    "render_overview": lambda i, output: render_overview(
        {METATILE: i.root}, output, min_zoom=0, **DRAWING
    ),
    "pack_pyramid": pack,
    "export_folder": lambda i, output: export_folder(i.pyramid, output, "webp"),
    "export_mbtiles": lambda i, output: export_mbtiles(i.pyramid, output),
    "export_cog": cog,
    "build_mosaic": lambda i, output: build_mosaic([i.tile], output),
    "build_warped": lambda i, output: build_warped(i.tile, output, [0, 0, 9, 9], 1, "nearest"),
    "build_preview": lambda i, output: build_preview(
        i.pyramid, output, output.with_suffix(".thumbnail"), TOLD, {}
    ),
    "write_thumbnail": lambda i, output: write_thumbnail(
        i.pyramid, output, "#12304a", (15, 45, 16, 46)
    ),
    "build_index": lambda i, output: build_index(MAPS, output),
}

# Outputs of many pages of a file system.
LARGE = ("enhance_tile", "render_metatile, archive", "pack_pyramid", "export_mbtiles", "export_cog")


def size_of_largest(path: Path) -> int:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max(file.stat().st_size for file in files if file.is_file())


@pytest.mark.parametrize("share", [0.05, 0.6, 0.9999])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_limit_of_the_size_of_files(
    inputs: Inputs, tmp_path: Path, files_limited_to, writer: str, share: float
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "folder"
    folder.mkdir()
    WRITERS[writer](inputs, whole)
    size = int(share * size_of_largest(whole))
    with files_limited_to(size), pytest.raises(TileError) as refusal:
        WRITERS[writer](inputs, folder / "output")
    said = str(refusal.value)
    assert said.startswith(f"{folder}/output")
    assert "cannot be written (File too large; " in said
    assert said.endswith("raise the limit of the size of files (ulimit -f) and run again.")
    assert "\n" not in said
    assert not list(folder.rglob("*part*"))
    assert not (folder / "output").exists()


@pytest.mark.parametrize("share", [0.05, 0.6, 0.98])
@pytest.mark.parametrize("writer", LARGE)
def test_a_full_disk(
    inputs: Inputs, tmp_path: Path, disk_with_room, writer: str, share: float
) -> None:
    WRITERS[writer](inputs, tmp_path / "whole")
    folder = disk_with_room(int(share * size_of_largest(tmp_path / "whole")) // 4096 * 4096)
    with pytest.raises(TileError) as refusal:
        WRITERS[writer](inputs, folder / "output")
    said = str(refusal.value)
    assert said.startswith(f"{folder}/output")
    assert "cannot be written (No space left on device; " in said
    assert said.endswith("; make room and run again.")
    assert not list(folder.rglob("*part*"))
    assert not (folder / "output").exists()
