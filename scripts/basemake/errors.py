"""Errors a user can fix: each message is one sentence with the value, what is allowed, what to do.

They reach the user as one line. Any other exception is a defect of basemake: it has a traceback.
"""

# What using a value from JSON raises if it is not of the form that was expected.
MALFORMED = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)


class BasemakeError(Exception):
    """Base of all errors that a user can fix."""

    def __init__(self, message: str) -> None:
        """Put the message on one line: texts of libraries in it may have several lines."""
        super().__init__(" ".join(message.split()))


class ConfigError(BasemakeError):
    """A config, source or recipe file contains something that is not allowed."""


class RegionError(BasemakeError):
    """A region file holds no polygon that can be mapped."""


class ManifestError(BasemakeError):
    """The manifest is missing, stale, or cannot be made from the source's items."""


class BandError(BasemakeError):
    """A band cannot be fetched, or is not what its item describes."""


class TileError(BasemakeError):
    """Bands or tiles do not fit together, cannot be read, or cannot be written."""


class BusyError(BasemakeError):
    """Another run is using the working directory."""


class RecordError(BasemakeError):
    """An input has no record of what it was made of."""


class BucketError(BasemakeError):
    """The bucket that keeps the results refuses, cannot be reached, or holds something else."""


class PublishError(BasemakeError):
    """A map cannot be published: the place cannot be written, or there is no whole map."""


class LookError(BasemakeError):
    """There is nothing to look at, or a look cannot be saved."""
