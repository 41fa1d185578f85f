"""A source of items and bands: the typed content of a file in config/sources/."""

from dataclasses import dataclass, fields
from typing import Any

# Settings that change neither which items a search finds nor the addresses of their bands.
NOT_SEARCHED = ("dn", "mask", "attribution", "title", "limits", "credentials")


@dataclass(frozen=True)
class Stall:
    """The least mean speed of a transfer over `seconds`; a slower transfer is tried again."""

    bytes_per_second: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of requests to a service; config/source.schema.yaml describes each and its unit."""

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
        """Return the limits of a checked source file's `limits`, with defaults filled in."""
        return cls(**{**settings, "stall": Stall(**settings["stall"])})


@dataclass(frozen=True, kw_only=True)
class Source:
    """The settings of a source; config/source.schema.yaml describes each.

    A setting that the file does not give is None. A catalog has `items`; an API has `url` and
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
    mask: dict[str, Any] | None = None
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
        """Return the source that a checked file describes, with defaults filled in."""
        return cls(**{**settings, "limits": Limits.of(settings["limits"])})

    def searched(self) -> dict[str, Any]:
        """Return the settings that are not None and decide what a search finds, by name."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value
            for name, value in settings.items()
            if name not in NOT_SEARCHED and value is not None
        }
