"""How a source's data may be reached: from which hosts, at what pace, with which credentials."""

from dataclasses import dataclass

from basemake.build.source import Limits
from basemake.errors import BasemakeError
from basemake.web.addresses import origin, without_secrets

ONLY_HTTPS = (
    "they go over https only; fix the address, or give the source's credentials plain_http: true"
    " if it is a network of your own."
)


class CredentialsError(BasemakeError):
    """Credentials are missing, or the service refuses them."""


class Credentials:
    """Access to public URLs; base class of the other kinds of credentials."""

    origins: frozenset[str] = frozenset()  # scheme, host and port that may see the credentials

    def address(self, href: str) -> str:
        """Return the web address of an href, signed where the source asks for signed addresses."""
        return href

    def headers(self, address: str) -> dict[str, str]:
        """Return the headers that authorize a request to `address`; none for foreign hosts."""
        return {}

    def renew(self) -> bool:
        """Replace refused credentials. Return whether a request with new ones can be tried."""
        return False

    def _are_for(self, address: str) -> bool:
        """Return whether an address may see the credentials.

        Raises CredentialsError if it may not only because it is not https: without credentials
        the host would refuse, and its answer would not give the reason.
        """
        place = origin(address)
        if place not in self.origins and place.replace("http:", "https:") in self.origins:
            raise CredentialsError(
                f"{without_secrets(address)} is not encrypted, and credentials are for {place}:"
                f" {ONLY_HTTPS}"
            )
        return place in self.origins


@dataclass(frozen=True)
class Access:
    """How a source's data may be reached.

    `hosts` are the values `host` and `host:port` that requests and redirects may go to.
    """

    hosts: frozenset[str]
    limits: Limits
    credentials: Credentials
