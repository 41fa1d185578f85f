"""A source of items and bands, as a file of config/sources/ describes it."""

from dataclasses import dataclass, fields
from typing import Any

# Settings that change neither which items there are nor where their bands lie.
NOT_SEARCHED = ("dn", "attribution", "title", "limits", "credentials")


@dataclass(frozen=True)
class Stall:
    """The least speed of a transfer, over so many seconds; a slower one is tried again."""

    bytes_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that is asked of a service; config/source.schema.yaml describes each limit."""

    connections: int
    requests_per_minute: float
    bytes_per_month: int | None = None
    page_size: int
    patience_seconds: float
    longest_wait_seconds: float
    search_seconds: float
    stall: Stall

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Limits":
        """Return the limits of a checked source file, defaults filled in."""
        return cls(**{**settings, "stall": Stall(**settings["stall"])})


@dataclass(frozen=True, kw_only=True)
class Source:
    """The settings of a source; config/source.schema.yaml describes each.

    None stands for a setting that the file does not give. A catalog has `items`, an API `url` and
    `collection`.
    """

    type: str
    title: str
    items: str | None = None
    url: str | None = None
    collection: str | None = None
    seed: int
    pixel_size: float
    bands: dict[str, str]
    dn: dict[str, Any]
    attribution: str
    hosts: list[str]
    id_pattern: str
    href: str | None = None
    alternate: str | None = None
    dates: str | None = None
    only: dict[str, list]
    choose: list[str]
    limits: Limits
    credentials: dict[str, Any] | None = None

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Source":
        """Return the source of a checked file, defaults filled in."""
        return cls(**{**settings, "limits": Limits.of(settings["limits"])})

    def searched(self) -> dict[str, Any]:
        """Return the settings that decide which items a search finds, without absent ones."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value
            for name, value in settings.items()
            if name not in NOT_SEARCHED and value is not None
        }
