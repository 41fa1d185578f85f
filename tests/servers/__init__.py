"""Real servers on loopback for tests of the network side: web, tokens, STAC, S3."""

from servers.auth import S3Keys, SasTokens, Tokens
from servers.faulty import (
    Answer,
    Asked,
    Fault,
    FaultyServer,
    behave,
    changed,
    cut,
    garbled,
    http_date,
    no_ranges,
    redirect,
    reset,
    stall,
    status,
    trickle,
)
from servers.others import free_port, rustac_serve, s3_server
from servers.patched import PatchedFile
from servers.raw import certificate, raw_server
from servers.stac import StacServer

__all__ = [
    "Answer",
    "Asked",
    "Fault",
    "FaultyServer",
    "PatchedFile",
    "S3Keys",
    "SasTokens",
    "StacServer",
    "Tokens",
    "behave",
    "certificate",
    "changed",
    "cut",
    "free_port",
    "garbled",
    "http_date",
    "no_ranges",
    "raw_server",
    "redirect",
    "reset",
    "rustac_serve",
    "s3_server",
    "stall",
    "status",
    "trickle",
]
