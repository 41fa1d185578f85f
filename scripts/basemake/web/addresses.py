"""Checks of hrefs, which come from outside: only the source's own hosts and folder are used."""

import re
from collections.abc import Set
from pathlib import Path
from urllib.parse import unquote, urlsplit

from basemake.build.source import Source
from basemake.errors import BandError


def is_remote(href: str) -> bool:
    """Return whether an href is an http, https or s3 address, rather than the path of a file."""
    try:
        return urlsplit(href).scheme in ("http", "https", "s3")
    except ValueError:  # such as http://[::1
        return False


def origin(address: str) -> str:
    """Return scheme, host and port of an address in lower case, such as https://x.org:8080."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def without_secrets(text: str) -> str:
    """Return `text` with logins and queries (which may be signatures) cut from its addresses."""
    return re.sub(r"\?[^\s'\"]*=[^\s'\"]*", "?...", re.sub(r"//[^/@\s]*@", "//", text))


def allowed_hosts(source: Source) -> frozenset[str]:
    """Return the values `host` and `host:port`, in lower case, that a source's hrefs may use."""
    endpoint = (source.credentials or {}).get("endpoint")
    own = {urlsplit(url).netloc for url in (source.url, endpoint) if url}
    return frozenset(host.lower() for host in (*source.hosts, *own))


def check_url(url: str, hosts: Set[str]) -> None:
    """Raise BandError unless `url` is http(s), holds no login, and its host is one of `hosts`.

    `hosts` are values `host`, of any port, or `host:port`, in lower case.
    """
    try:
        parts, url = urlsplit(url), without_secrets(url)
    except ValueError as error:
        raise BandError(f"{without_secrets(url)[:200]!r} is not an address ({error}).") from None
    if parts.scheme not in ("http", "https"):
        raise BandError(f"{url} has the scheme {parts.scheme!r}; allowed: http, https.")
    if "@" in parts.netloc:
        raise BandError(f"{parts.hostname}: credentials in an address are not allowed.")
    if not {parts.netloc.lower(), parts.hostname} & hosts:
        raise BandError(
            f"{url} is at the host {parts.netloc!r}; allowed by the source:"
            f" {', '.join(sorted(hosts)) or 'none'}; if you trust it, add it to the source's hosts."
        )


def local_path(href: str, folder: Path) -> Path:
    """Return the absolute path of the file that an href names; relative hrefs start at `folder`.

    `href` is a relative path, an absolute path or a file: URL, and `folder` that of the catalog.
    Raises BandError if the file does not exist or lies outside `folder`.
    """
    parts = urlsplit(href)
    if parts.scheme not in ("", "file"):
        raise BandError(f"{href} has the scheme {parts.scheme!r}; allowed: file, http, https.")
    path = (folder / (unquote(parts.path) if parts.scheme else href)).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BandError(f"{href} is outside {folder}; a catalog's files must lie beside it.")
    if not path.is_file():
        raise BandError(f"{path} does not exist; check the catalog and its files.")
    return path
