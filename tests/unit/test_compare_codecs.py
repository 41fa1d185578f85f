"""The comparison of codecs: losslessness is checked, all have the same blocks, and its files."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from basemake.errors import TileError
from basemake.measure.codecs import HEADINGS, Outcome, Profile, measure, profiles
from basemake.pixels.codecs import CODECS
from compare_codecs import compare_codecs

SIDE = 520  # pixels: more than a block


def scenery(height: int, width: int) -> np.ndarray:
    """Opaque RGBA with relief and noise, and one transparent pixel."""
    y, x = np.mgrid[:height, :width] / 23.0
    rgba = np.full((height, width, 4), 255, np.uint8)
    noise = np.random.default_rng(2).integers(0, 20, (height, width))
    for band in range(3):
        rgba[..., band] = 90 + 60 * np.sin(x + band) * np.cos(y) + noise
    rgba[3, 5] = 0
    return rgba


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
@pytest.mark.parametrize("shape", [(64, 64), (33, 50)])
def test_every_profile_is_lossless_and_packs(profile: Profile, shape: tuple[int, int]) -> None:
    block = scenery(*shape)
    [outcome] = measure([profile], [block], 60)
    assert outcome.exact
    assert outcome.pixels == shape[0] * shape[1]
    assert 0 < outcome.size < block.nbytes


def test_every_tile_codec_is_compared_once() -> None:
    assert sorted(p.used_as for p in profiles() if p.used_as) == sorted(CODECS)


def test_one_wrong_pixel_in_one_block_is_not_exact() -> None:
    def spoil(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        block = np.frombuffer(data, np.uint8).reshape(shape).copy()
        block[0, 0, 2] ^= block[0, 0, 0] == 7
        return block

    blocks = [np.full((8, 8, 4), level, np.uint8) for level in (7, 8, 9)]
    profile = Profile("raw", lambda block: block.tobytes(), spoil)
    assert not measure([profile], blocks, 60)[0].exact
    assert measure([profile], blocks[1:], 60)[0].exact


def test_all_profiles_have_the_same_blocks_and_one_at_least() -> None:
    blocks = [scenery(16, 16)] * 5
    assert {outcome.pixels for outcome in measure(profiles(), blocks, 0)} == {256}
    assert {outcome.pixels for outcome in measure(profiles(), blocks, 600)} == {5 * 256}


def test_figures_are_of_a_whole_tile() -> None:
    profile = profiles()[0]
    outcome = Outcome(profile, 1_000_000, 2_000_000, 0.5, 0.25, True)
    figures = dict(zip(HEADINGS, outcome.figures(10_000_000), strict=True))
    assert figures == {
        "bytes/px": 2,
        "encode Mpx/s": 2,
        "decode Mpx/s": 4,
        "MB a tile": 20,
        "encode s": 5,
        "decode s": 2.5,
    }


@pytest.mark.parametrize("side", [SIDE, 90])
def test_tiles_become_a_table_and_a_chart(write_tile, tmp_path: Path, side: int) -> None:
    tiles = [write_tile(tmp_path / f"{n}.tif", scenery(side, side)) for n in (1, 2)]
    table = compare_codecs(tiles, tmp_path / "codecs", 1)
    with (tmp_path / "codecs/codecs.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["codec"] for row in rows] == [profile.name for profile in profiles()]
    assert {row["exact"] for row in rows} == {"yes"}
    for row in rows:
        assert row["codec"] in table
        assert float(row["MB a tile"]) == pytest.approx(
            float(row["bytes/px"]) * side**2 / 1e6, rel=0.01
        )
    with Image.open(tmp_path / "codecs/codecs.png") as chart:
        assert chart.width > 600
        assert len(set(chart.convert("RGB").get_flattened_data())) > 3


def test_a_tile_without_valid_pixels_is_named(write_tile, tmp_path: Path) -> None:
    tile = write_tile(tmp_path / "sea.tif", np.zeros((90, 90, 4), np.uint8))
    with pytest.raises(TileError, match=r"sea\.tif has.*valid"):
        compare_codecs([tile], tmp_path / "codecs", 1)
