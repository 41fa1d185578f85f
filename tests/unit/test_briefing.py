"""Bytes, seconds and shares of items as text."""

import pytest

from basemake.forecast.briefing import in_bytes, in_time, shown_items


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (147_000_000, "147 MB"),
        (38_250_000_000, "38.2 GB"),
        (1.5e15, "1,500 TB"),
    ],
)
def test_bytes(size, text):
    assert in_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.2, "1 s"),
        (89, "89 s"),
        (91, "2 min"),
        (89 * 60, "89 min"),
        (90 * 60, "1 h 30 min"),
        (7140, "1 h 59 min"),
        (7199, "2 h 00 min"),
        (30 * 3600, "30 h"),
    ],
)
def test_seconds(seconds, text):
    assert in_time(seconds) == text


def test_tiles_without_a_pixel_do_not_count_as_hidden():
    tiles = {
        "a": {"items": {"first": 0.7, "second": 0.2}, "hidden": 0.1},
        "empty": {"items": {"first": 0.0, "second": 0.0}, "hidden": 0.0},
        "new": {},
    }
    (line,) = shown_items(tiles)
    text = "20.0% of what 1 finished tiles show is of items that fill holes; 10.0% is hidden by"
    assert text in " ".join(line.split())
    assert not [*shown_items({"empty": tiles["empty"]})]


def test_a_tile_beneath_clouds_alone_is_hidden():
    tiles = {"clouds": {"items": {"first": 0.0, "second": 0.0}, "hidden": 1.0}}
    (line,) = shown_items(tiles)
    assert "100.0% is hidden by the masks of all" in " ".join(line.split())
