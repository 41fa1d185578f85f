"""Errors a user can mend: each message is one sentence with the value, what is allowed, what to do.

They reach the user without a traceback; every other exception is a defect of basemake and keeps it.
"""


class BasemakeError(Exception):
    """Base of all errors that a user can mend."""

    def __init__(self, message: str) -> None:
        """Keep the message on one line: libraries' words in it may have several."""
        super().__init__(" ".join(message.split()))


class ConfigError(BasemakeError):
    """A config, source or recipe file says something that is not allowed."""


class RegionError(BasemakeError):
    """A region file holds no polygon that can be mapped."""


class ManifestError(BasemakeError):
    """The manifest is missing, stale, or cannot be made from the source's items."""


class BandError(BasemakeError):
    """A band cannot be had, or is not what its item says."""


class TileError(BasemakeError):
    """Bands or tiles do not fit together, cannot be read, or cannot be written."""


class BusyError(BasemakeError):
    """Another run is going on in the working directory."""


class RecordError(BasemakeError):
    """An input has no record of what it was made of."""
