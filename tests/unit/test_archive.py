"""PMTiles archives: what is written is read back, in the order that range requests like."""

import errno
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

from basemake.archive import TILE_TYPES, pack_parts, read_tile, write_part
from basemake.webtiles import WebTile

HEADER = {
    "tile_type": TileType.WEBP,
    "min_lon_e7": 90000000,
    "min_lat_e7": 440000000,
    "max_lon_e7": 110000000,
    "max_lat_e7": 460000000,
    "center_zoom": 7,
    "center_lon_e7": 100000000,
    "center_lat_e7": 450000000,
}
METADATA = {"name": "alps", "attribution": "Contains modified Copernicus Sentinel data 2025 ©"}
SEA = b"the same blue tile"


def reader(path: Path) -> Reader:
    with path.open("rb") as file:
        return Reader(MmapSource(file))


def descendants(root: WebTile, most: int) -> list[WebTile]:
    if root.z == most:
        return [root]
    return [root, *itertools.chain(*(descendants(child, most) for child in root.children))]


def images(tiles: list[WebTile]) -> dict[WebTile, bytes]:
    """Data of each tile, of its own length; every third is the sea."""
    return {
        tile: SEA if number % 3 == 0 else f"{tile} ".encode() * (1 + number % 7)
        for number, tile in enumerate(tiles)
    }


@pytest.fixture
def parts(tmp_path: Path) -> tuple[list[Path], dict[WebTile, bytes]]:
    """Archives as jobs leave them: two metatiles, one that shows nothing, and the overview."""
    tiles: dict[WebTile, bytes] = {}
    paths = []
    roots = [WebTile(3, 4, 2), WebTile(3, 0, 7), WebTile(3, 5, 2)]
    for name, own in [
        *((str(number), images(descendants(root, 6))) for number, root in enumerate(roots[:2])),
        ("empty", {}),
        ("last", images(descendants(roots[2], 6))),
        ("overview", images([WebTile(0, 0, 0), WebTile(1, 1, 0), WebTile(2, 2, 1)])),
    ]:
        paths.append(tmp_path / f"{name}.pmtiles")
        # Given in an order of no use
        write_part(paths[-1], dict(reversed(own.items())).items(), "webp")
        tiles |= own
    return paths, tiles


def test_a_part_gives_back_its_tiles_and_none_besides(parts: tuple) -> None:
    paths, tiles = parts
    assert read_tile(paths[0], WebTile(6, 33, 17)) == tiles[WebTile(6, 33, 17)]
    own = {WebTile(*zxy): data for zxy, data in all_tiles(reader(paths[0]).get_bytes)}
    assert own == {tile: tiles[tile] for tile in descendants(WebTile(3, 4, 2), 6)}
    assert read_tile(paths[0], WebTile(6, 0, 63)) is None
    assert reader(paths[0]).header()["tile_type"] == TileType.WEBP


def test_a_part_without_tiles_is_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.pmtiles"
    write_part(path, [], "webp")
    assert path.read_bytes() == b""
    assert read_tile(path, WebTile(0, 0, 0)) is None


def test_an_archive_holds_all_tiles_of_its_parts(parts: tuple, tmp_path: Path) -> None:
    paths, tiles = parts
    output = tmp_path / "alps.pmtiles"
    assert pack_parts(paths, output, HEADER, METADATA) == len(tiles)
    assert {WebTile(*zxy): data for zxy, data in all_tiles(reader(output).get_bytes)} == tiles
    assert all(read_tile(output, tile) == data for tile, data in tiles.items())
    assert read_tile(output, WebTile(6, 63, 63)) is None
    assert not list(tmp_path.glob("*.part"))


def test_header_and_metadata_say_what_is_in_it(parts: tuple, tmp_path: Path) -> None:
    paths, tiles = parts
    output = tmp_path / "alps.pmtiles"
    pack_parts(paths, output, HEADER, METADATA)
    header = reader(output).header()
    assert {key: header[key] for key in HEADER} == HEADER
    assert (header["min_zoom"], header["max_zoom"]) == (0, 6)
    assert header["tile_compression"] == Compression.NONE
    assert header["addressed_tiles_count"] == len(tiles)
    assert header["tile_contents_count"] == len(set(tiles.values()))
    assert header["version"] == 3
    assert reader(output).metadata() == METADATA


def test_equal_tiles_are_stored_once_and_in_hilbert_order(parts: tuple, tmp_path: Path) -> None:
    paths, tiles = parts
    output = tmp_path / "alps.pmtiles"
    pack_parts(paths, output, HEADER, METADATA)
    header = reader(output).header()
    assert header["clustered"]
    in_order = [tiles[tile] for tile in sorted(tiles, key=lambda tile: zxy_to_tileid(*tile))]
    once = b"".join(dict.fromkeys(in_order))
    data = output.read_bytes()[header["tile_data_offset"] :]
    assert data == once
    assert header["tile_data_length"] == len(once)


def test_the_bytes_do_not_depend_on_the_order_of_parts(parts: tuple, tmp_path: Path) -> None:
    paths, _ = parts
    for name, order in (("a", paths), ("b", paths[::-1]), ("c", paths[2:] + paths[:2])):
        pack_parts(order, tmp_path / name, HEADER, METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


def test_runs_of_equal_tiles_of_a_part_are_all_packed(tmp_path: Path) -> None:
    """PMTiles keeps a run of equal tiles as one entry."""
    tiles = dict.fromkeys(descendants(WebTile(4, 3, 3), 8), SEA)
    tiles[WebTile(8, 50, 50)] = b"an isle"
    write_part(tmp_path / "part", tiles.items(), "png")
    assert reader(tmp_path / "part").header()["tile_entries_count"] < len(tiles) / 10
    output = tmp_path / "packed"
    header = {**HEADER, "tile_type": TileType.PNG}
    assert pack_parts([tmp_path / "part"], output, header, {}) == len(tiles)
    assert {WebTile(*zxy): data for zxy, data in all_tiles(reader(output).get_bytes)} == tiles


def test_many_zooms_and_leaf_directories_read_back(tmp_path: Path) -> None:
    """20 000 entries do not fit into the root directory; the zooms go to the highest allowed."""
    rng = np.random.default_rng(1)
    base = {WebTile(9, x, y) for x, y in rng.integers(0, 512, (20_000, 2)).tolist()}
    far = {WebTile(z, 2**z - 1, 2**z // 2) for z in range(25)}
    lengths = rng.integers(0, 300, len(base | far)).tolist()
    ordered = sorted(base | far)
    tiles = {tile: f"{tile}".encode().ljust(n) for tile, n in zip(ordered, lengths, strict=True)}
    halves = list(tiles.items())
    write_part(tmp_path / "a", halves[::2], "jpeg")
    write_part(tmp_path / "b", halves[1::2], "jpeg")
    output = tmp_path / "packed"
    header = {**HEADER, "tile_type": TILE_TYPES["jpeg"]}
    assert pack_parts([tmp_path / "a", tmp_path / "b"], output, header, {}) == len(tiles)
    packed = reader(output)
    assert packed.header()["leaf_directory_length"] > 0
    assert packed.header()["max_zoom"] == 24
    assert {WebTile(*zxy): data for zxy, data in all_tiles(packed.get_bytes)} == tiles
    assert read_tile(output, WebTile(24, 2**24 - 1, 2**23)) == tiles[WebTile(24, 2**24 - 1, 2**23)]


@pytest.mark.parametrize(
    "write",
    [
        lambda parts, output: write_part(output, [(WebTile(0, 0, 0), b"first")], "webp"),
        lambda parts, output: pack_parts(parts, output, HEADER, METADATA),
    ],
    ids=["write_part", "pack_parts"],
)
def test_what_breaks_off_is_not_taken_for_an_archive(
    parts: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    def full(writer: Writer, *_: object) -> None:
        writer.tile_f.close()
        raise OSError(errno.ENOSPC, "No space left on device")

    output = tmp_path / "output.pmtiles"
    output.write_bytes(b"of an earlier run")
    monkeypatch.setattr(Writer, "finalize", full)
    with pytest.raises(OSError, match="No space left"):
        write(parts[0], output)
    assert output.read_bytes() == b"of an earlier run"
