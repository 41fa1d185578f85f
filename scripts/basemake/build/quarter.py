"""Quarters of a year: a mosaic is made of the items of one."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Quarter:
    """A quarter of a year: `number` 1 is January to March."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> "Quarter":
        """Return the quarter of a text like 2025Q3; raises ValueError for any other text."""
        match = re.fullmatch(r"(\d{4})Q([1-4])", text, re.ASCII)
        if match is None:
            raise ValueError(f"quarter {text!r} is not written like 2025Q3")
        return cls(int(match[1]), int(match[2]))

    def span(self) -> tuple[datetime, datetime]:
        """Return the start of the quarter and the start of the next one (UTC)."""
        end_year, end_month = self.year + self.number // 4, 3 * self.number % 12 + 1
        return (
            datetime(self.year, 3 * self.number - 2, 1, tzinfo=UTC),
            datetime(end_year, end_month, 1, tzinfo=UTC),
        )

    def __str__(self) -> str:
        """Return the quarter as config gives it, such as 2025Q3."""
        return f"{self.year:04}Q{self.number}"
