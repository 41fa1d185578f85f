"""PMTiles archives: what is written is read back, in Hilbert order."""

import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import (
    Compression,
    Entry,
    TileType,
    deserialize_directory,
    tileid_to_zxy,
    zxy_to_tileid,
)

from basemake.errors import TileError
from basemake.pixels import archive
from basemake.pixels.archive import TILE_TYPES, pack_parts, read_tile, write_part
from basemake.pixels.webtiles import WebTile

HEADER = {
    "tile_type": TileType.WEBP,
    "min_lon_e7": 90000000,
    "min_lat_e7": 440000000,
    "max_lon_e7": 110000000,
    "max_lat_e7": 460000000,
    "center_zoom": 5,
    "center_lon_e7": 100000000,
    "center_lat_e7": 450000000,
}
METADATA = {"name": "alps", "attribution": "Contains modified Copernicus Sentinel data 2025 ©"}
SEA = b"the same blue tile"


def reader(path: Path) -> Reader:
    with path.open("rb") as file:
        return Reader(MmapSource(file))


def entries(path: Path) -> list[Entry]:
    """The entries of all directories, one after another."""
    packed = reader(path)
    header = packed.header()
    found = deserialize_directory(packed.get_bytes(header["root_offset"], header["root_length"]))
    if found[0].run_length:
        return found
    leaves = [(header["leaf_directory_offset"] + leaf.offset, leaf.length) for leaf in found]
    return [entry for leaf in leaves for entry in deserialize_directory(packed.get_bytes(*leaf))]


def check(path: Path, tiles: dict[WebTile, bytes]) -> None:
    """Check what `pmtiles verify` does, and that the archive holds exactly `tiles`."""
    header, found = reader(path).header(), entries(path)
    sections = ("root", "metadata", "leaf_directory", "tile_data")
    end = 127
    for section in sections:
        assert header[f"{section}_offset"] == end
        end += header[f"{section}_length"]
    assert end == path.stat().st_size
    assert header["root_offset"] + header["root_length"] <= 16384
    assert header["addressed_tiles_count"] == len(tiles)
    assert header["addressed_tiles_count"] == sum(entry.run_length for entry in found)
    assert header["tile_entries_count"] == len(found)
    assert header["tile_contents_count"] == len(set(tiles.values()))
    assert header["tile_contents_count"] == len({entry.offset for entry in found})
    assert header["min_zoom"] == min(tiles).z
    assert header["max_zoom"] == max(tiles).z
    assert header["min_zoom"] <= header["center_zoom"] <= header["max_zoom"]
    assert header["clustered"]
    end = 0
    for entry, after in itertools.zip_longest(found, found[1:]):
        assert after is None or entry.tile_id + entry.run_length <= after.tile_id
        assert entry.offset <= end
        end = max(end, entry.offset + entry.length)
    assert end == header["tile_data_length"]
    assert {WebTile(*zxy): data for zxy, data in all_tiles(reader(path).get_bytes)} == tiles


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
        # Not in the order of their ids
        write_part(paths[-1], dict(reversed(own.items())).items(), "webp")
        tiles |= own
    return paths, tiles


def test_a_part_holds_exactly_its_tiles(parts: tuple) -> None:
    paths, tiles = parts
    assert read_tile(paths[0], WebTile(6, 33, 17)) == tiles[WebTile(6, 33, 17)]
    own = {WebTile(*zxy): data for zxy, data in all_tiles(reader(paths[0]).get_bytes)}
    assert own == {tile: tiles[tile] for tile in descendants(WebTile(3, 4, 2), 6)}
    assert read_tile(paths[0], WebTile(6, 0, 63)) is None
    assert reader(paths[0]).header()["tile_type"] == TileType.WEBP


def test_a_part_without_tiles_is_an_archive_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "empty.pmtiles"
    write_part(path, [], "webp")
    assert list(all_tiles(reader(path).get_bytes)) == []
    assert reader(path).header()["addressed_tiles_count"] == 0
    assert reader(path).metadata() == {}
    assert read_tile(path, WebTile(0, 0, 0)) is None


def test_an_archive_holds_all_tiles_of_its_parts(parts: tuple, tmp_path: Path) -> None:
    paths, tiles = parts
    output = tmp_path / "alps.pmtiles"
    assert pack_parts(paths, output, HEADER, METADATA) == len(tiles)
    check(output, tiles)
    assert all(read_tile(output, tile) == data for tile, data in tiles.items())
    assert read_tile(output, WebTile(6, 63, 63)) is None
    assert not list(tmp_path.glob("*.part"))


def test_header_and_metadata_say_what_is_in_it(parts: tuple, tmp_path: Path) -> None:
    paths, _ = parts
    output = tmp_path / "alps.pmtiles"
    pack_parts(paths, output, HEADER, METADATA)
    header = reader(output).header()
    assert {key: header[key] for key in HEADER} == HEADER
    assert (header["min_zoom"], header["max_zoom"]) == (0, 6)
    assert header["tile_compression"] == Compression.NONE
    assert header["version"] == 3
    assert reader(output).metadata() == METADATA


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:60],
        lambda data: b"PM",
        lambda data: b"",  # as a power failure may leave it
        lambda data: bytes(len(data)),
    ],
)
@pytest.mark.parametrize("which", [1, 2], ids=["with tiles", "without"])
def test_a_part_that_is_not_whole_is_named(
    parts: tuple, tmp_path: Path, damage: Callable, which: int
) -> None:
    damaged = parts[0][which]
    damaged.write_bytes(damage(damaged.read_bytes()))
    with pytest.raises(TileError, match=f"{damaged} is not a whole archive; delete it"):
        pack_parts(parts[0], tmp_path / "all.pmtiles", HEADER, METADATA)
    assert not (tmp_path / "all.pmtiles").exists()
    with pytest.raises(TileError, match=f"{damaged} is not a whole archive; delete it"):
        read_tile(damaged, WebTile(0, 0, 0))


@pytest.mark.parametrize(("given", "kept"), [(2, 3), (6, 6), (9, 6)])
def test_the_centre_is_at_a_zoom_that_there_is(
    parts: tuple, tmp_path: Path, given: int, kept: int
) -> None:
    header = {**HEADER, "center_zoom": given}
    pack_parts(parts[0][:1], tmp_path / "packed", header, METADATA)
    assert reader(tmp_path / "packed").header()["center_zoom"] == kept
    assert header["center_zoom"] == given


def test_equal_tiles_are_stored_once_and_in_hilbert_order(parts: tuple, tmp_path: Path) -> None:
    paths, tiles = parts
    output = tmp_path / "alps.pmtiles"
    pack_parts(paths, output, HEADER, METADATA)
    header = reader(output).header()
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


def test_compressed_sections_name_no_operating_system(parts: tuple, tmp_path: Path) -> None:
    """Which byte Python writes there depends on its version."""
    pack_parts(parts[0], tmp_path / "a", HEADER, METADATA)
    header, data = reader(tmp_path / "a").header(), (tmp_path / "a").read_bytes()
    for section in ("root", "metadata"):
        start = header[f"{section}_offset"]
        assert data[start : start + 2] == b"\x1f\x8b"
        assert data[start + 9] == 255


def test_runs_of_equal_tiles_of_a_part_are_all_packed(tmp_path: Path) -> None:
    """PMTiles keeps a run of equal tiles as one entry."""
    tiles = dict.fromkeys(descendants(WebTile(4, 3, 3), 8), SEA)
    tiles[WebTile(8, 50, 50)] = b"an isle"
    write_part(tmp_path / "part", tiles.items(), "png")
    assert reader(tmp_path / "part").header()["tile_entries_count"] < len(tiles) / 10
    output = tmp_path / "packed"
    header = {**HEADER, "tile_type": TileType.PNG}
    assert pack_parts([tmp_path / "part"], output, header, {}) == len(tiles)
    check(output, tiles)
    assert len(entries(output)) == reader(tmp_path / "part").header()["tile_entries_count"]


def test_equal_tiles_of_neighbouring_parts_are_one_run(tmp_path: Path) -> None:
    tiles = {WebTile(*tileid_to_zxy(tile_id)): SEA for tile_id in range(400)}
    ordered = list(tiles.items())
    paths = [tmp_path / f"{start}" for start in range(0, 400, 100)]
    for path in paths:
        start = int(path.name)
        write_part(path, ordered[start : start + 100], "webp")
    assert pack_parts(paths[::-1], tmp_path / "packed", HEADER, {}) == 400
    check(tmp_path / "packed", tiles)
    assert [entry.run_length for entry in entries(tmp_path / "packed")] == [400]


def test_tiles_of_equal_checksum_and_length_are_told_apart(tmp_path: Path) -> None:
    contents = [b"plumless", b"buckeroo"]
    assert crc32(contents[0]) == crc32(contents[1])
    tiles = {WebTile(3, x, 0): contents[x % 2] for x in range(8)}
    for x in range(8):
        write_part(tmp_path / f"{x}", [(WebTile(3, x, 0), contents[x % 2])], "webp")
    pack_parts([tmp_path / f"{x}" for x in range(8)], tmp_path / "packed", HEADER, {})
    check(tmp_path / "packed", tiles)


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
    assert reader(output).header()["leaf_directory_length"] > 0
    assert reader(output).header()["max_zoom"] == 24
    check(output, tiles)
    assert read_tile(output, WebTile(24, 2**24 - 1, 2**23)) == tiles[WebTile(24, 2**24 - 1, 2**23)]


def test_the_root_directory_fits_whatever_the_count_of_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with millions of tiles, leaf directories grow instead of the root."""
    monkeypatch.setattr(archive, "LEAF_ENTRIES", 1)
    rng = np.random.default_rng(1)
    places = rng.integers(0, 2**24, (5_000, 2)).tolist()
    tiles = {WebTile(24, x, y): rng.bytes(n) for n, (x, y) in enumerate(places, 1)}
    write_part(tmp_path / "part", tiles.items(), "webp")
    pack_parts([tmp_path / "part"], tmp_path / "packed", HEADER, {})
    check(tmp_path / "packed", tiles)


def test_memory_hardly_grows_with_the_count_of_tiles(tmp_path: Path) -> None:
    """37 bytes a web tile, and the path of each part; Python objects would take hundreds."""
    paths = []
    for number in range(160):
        metatile = WebTile(8, number, 100)
        tiles = [(tile, f"{tile}".encode()) for tile in descendants(metatile, 12)]
        paths.append(tmp_path / f"{number}")
        write_part(paths[-1], tiles, "webp")
    counts, peaks = [], []
    for some in (paths[:20], paths):
        tracemalloc.start()
        counts.append(pack_parts(some, tmp_path / "packed", HEADER, {}))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert counts == [20 * 341, 160 * 341]
    assert (peaks[1] - peaks[0]) / (counts[1] - counts[0]) < 64


@pytest.mark.parametrize(
    "write",
    [
        lambda parts, output: write_part(output, [(WebTile(0, 0, 0), b"first")], "webp"),
        lambda parts, output: pack_parts(parts, output, HEADER, METADATA),
    ],
    ids=["write_part", "pack_parts"],
)
def test_what_breaks_off_is_not_taken_for_an_archive(
    parts: tuple, tmp_path: Path, files_limited_to, write: Callable[[Any, Path], object]
) -> None:
    output = tmp_path / "output.pmtiles"
    output.write_bytes(b"of an earlier run")
    with files_limited_to(100), pytest.raises(TileError, match="File too large"):
        write(parts[0], output)
    assert output.read_bytes() == b"of an earlier run"
