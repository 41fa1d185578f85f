"""Quarters: how they are written, and when they begin and end."""

from datetime import UTC, datetime

import pytest

from basemake.build.quarter import Quarter


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2025Q1", (2025, 1), (2025, 4)),
        ("2025Q2", (2025, 4), (2025, 7)),
        ("2025Q3", (2025, 7), (2025, 10)),
        ("2025Q4", (2025, 10), (2026, 1)),
    ],
)
def test_a_quarter_ends_where_the_next_begins(text: str, start: tuple, end: tuple) -> None:
    expected = tuple(datetime(*month, 1, tzinfo=UTC) for month in (start, end))
    assert Quarter.parse(text).span() == expected
    assert str(Quarter.parse(text)) == text


@pytest.mark.parametrize("text", ["2025Q5", "2025Q0", "2025-Q3", "2025", "../2025Q3", "2025Q3\n"])
def test_what_is_no_quarter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="2025Q3"):
        Quarter.parse(text)
