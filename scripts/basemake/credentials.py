"""Credentials of a source: from environment variables, to the hosts they are meant for only.

Logins and tokens are shared by all jobs of a working directory (basemake.state), so that a run
logs in once. No secret goes into a log, an error, a manifest or a command line.
"""

import hashlib
import os
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from basemake.errors import BasemakeError
from basemake.network import BUSY, TIMEOUT, Interrupted, no_netrc, retry_after
from basemake.state import shared

MARGIN = 60  # seconds before its end at which a token is renewed
PRESIGNED = 3600  # seconds that a presigned address lives


class CredentialsError(BasemakeError):
    """Credentials are missing, or the service refuses them."""


class Credentials:
    """None: addresses are open to all. Base of the others."""

    hosts: frozenset[str] = frozenset()  # that may see the credentials

    def address(self, href: str) -> str:
        """Return the web address of an href, signed if that is how the source lets one in."""
        return href

    def headers(self, address: str) -> dict[str, str]:
        """Return the headers that an address wants, for its host only."""
        return {}

    def renew(self) -> bool:
        """Use new credentials from now on, after a refusal; say whether there can be any."""
        return False


class Oidc(Credentials):
    """A bearer token by OpenID Connect, from a refresh token or a user name and password."""

    def __init__(self, settings: dict) -> None:
        """Take the source's `credentials`: token_url, client_id, hosts, names of variables."""
        self._settings = settings
        self._file = f"login-{urlsplit(settings['token_url']).netloc}"
        self.hosts = frozenset(settings["hosts"])
        self._refused: str | None = None
        self._used: str | None = None

    def headers(self, address: str) -> dict[str, str]:
        """Return the bearer token for an address at one of the hosts that may see it."""
        if urlsplit(address).netloc not in self.hosts:
            return {}
        self._used = self._token()
        return {"Authorization": f"Bearer {self._used}"}

    def renew(self) -> bool:
        """Do not use the refused token again: another is asked for when it is needed."""
        self._refused = self._used
        return True

    def _token(self) -> str:
        """Return a token that lives: the shared one, or a new one for all jobs."""
        with shared(self._file) as login:
            fresh = login.get("access_ends", 0) - MARGIN > time.time()
            if not fresh or login.get("access_token") == self._refused:
                self._log_in(login)
            return str(login["access_token"])

    def _log_in(self, login: dict) -> None:
        now = time.time()
        grant = self._grant(login, now)
        answer = self._ask(grant)
        if answer is None and "refresh_token" in grant:  # the session has ended: begin another
            login.pop("refresh_token", None)
            answer = self._ask(self._grant(login, now))
        if answer is None:
            wanted = ", ".join(sorted(self._settings["variables"].values()))
            raise CredentialsError(
                f"the login at {urlsplit(self._settings['token_url']).netloc} was refused; check"
                f" the environment variables {wanted}."
            )
        login |= answer

    def _grant(self, login: dict, now: float) -> dict[str, str]:
        """Return the form that asks for a token by what there is."""
        variables = self._settings["variables"]
        found = {key: os.environ.get(name, "") for key, name in variables.items()}
        client = {"client_id": self._settings["client_id"]}
        if login.get("refresh_token") and login.get("refresh_ends", 0) - MARGIN > now:
            return client | _refreshing(login["refresh_token"])
        given = found.get("refresh_token", "")
        digest = hashlib.sha256(given.encode()).hexdigest()
        if given and login.get("given") != digest:  # each that the user gives is tried once
            login["given"] = digest
            return client | _refreshing(given)
        if not (found.get("user") and found.get("password")):
            names = [variables[key] for key in ("user", "password") if key in variables]
            raise CredentialsError(f"set the environment variables {' and '.join(names)}.")
        code = {"totp": found["totp"]} if found.get("totp") else {}
        password = {"username": found["user"], "password": found["password"]}
        return client | {"grant_type": "password"} | password | code

    def _ask(self, form: dict[str, str]) -> dict[str, Any] | None:
        """Return what the service gives, as it is kept, or None if it refuses."""
        host = urlsplit(self._settings["token_url"]).netloc
        now = time.time()
        try:
            answer = requests.post(
                self._settings["token_url"],
                data=form,
                timeout=TIMEOUT,
                allow_redirects=False,
                auth=no_netrc,
            )
        except requests.RequestException:
            raise Interrupted(f"{host}: the login could not be reached") from None
        if answer.status_code in BUSY:
            wait = retry_after(answer.headers.get("Retry-After"))
            raise Interrupted(f"{host} answers {answer.status_code} to the login", wait)
        if answer.status_code != requests.codes.ok:
            return None
        try:
            token = answer.json()
            return {
                "access_token": token["access_token"] + "",
                "access_ends": now + float(token.get("expires_in", 600)),
                "refresh_token": token.get("refresh_token"),
                "refresh_ends": now + float(token.get("refresh_expires_in", 0)),
            }
        except (ValueError, KeyError, TypeError):
            raise Interrupted(f"{host} gives no token") from None


class S3(Credentials):
    """Addresses presigned with the user's keys (signature v4, path style), or open ones."""

    def __init__(self, settings: dict) -> None:
        """Take the source's `credentials`: endpoint, region, names of variables or none."""
        import boto3  # late: only these sources need it
        from botocore import UNSIGNED
        from botocore.config import Config

        variables = settings.get("variables", {})
        keys = [os.environ.get(name, "") for name in variables.values()]
        if variables and not all(keys):
            raise CredentialsError(
                f"set the environment variables {' and '.join(variables.values())}."
            )
        pairs = zip(variables, keys, strict=True)
        names = {"key": "aws_access_key_id", "secret": "aws_secret_access_key"}
        self._client = boto3.client(
            "s3",
            endpoint_url=settings["endpoint"],
            region_name=settings["region"],
            config=Config(
                signature_version="s3v4" if variables else UNSIGNED,
                s3={"addressing_style": "path"},
            ),
            **{names[key]: value for key, value in pairs},
        )

    def address(self, href: str) -> str:
        """Return the address of s3://bucket/key at the source's endpoint."""
        parts = urlsplit(href)
        if parts.scheme != "s3":
            return href
        place = {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}
        return str(self._client.generate_presigned_url("get_object", place, PRESIGNED))

    def renew(self) -> bool:
        """Say that the next address is signed anew: the last one may have run out."""
        return True


class Sas(Credentials):
    """Addresses signed with a shared-access token that the service gives to anyone."""

    def __init__(self, settings: dict) -> None:
        """Take the source's `credentials`: token_url, hosts that the token is for."""
        self._settings = settings
        self._file = f"sas-{settings['token_url']}"
        self._hosts = frozenset(settings["hosts"])
        self._used: str | None = None

    def address(self, href: str) -> str:
        """Return the address with the token as its query, at the token's hosts only."""
        if urlsplit(href).netloc not in self._hosts:
            return href
        with shared(self._file) as state:
            if state.get("ends", 0) - MARGIN < time.time():
                self._ask(state)
            self._used = state["token"]
        return f"{href}{'&' if '?' in href else '?'}{self._used}"

    def renew(self) -> bool:
        """Ask for a new token next time, unless another job has one already."""
        with shared(self._file) as state:
            if state.get("token") == self._used:
                state.clear()
        return True

    def _ask(self, state: dict) -> None:
        host = urlsplit(self._settings["token_url"]).netloc
        try:
            answer = requests.get(self._settings["token_url"], timeout=TIMEOUT, auth=no_netrc)
            wait = retry_after(answer.headers.get("Retry-After"))
            if answer.status_code in BUSY:
                raise Interrupted(f"{host} answers {answer.status_code}", wait)
            answer.raise_for_status()
            token = answer.json()
            ends = datetime.fromisoformat(token["msft:expiry"]).timestamp()
            state.update(token=token["token"], ends=ends)
        except (requests.RequestException, ValueError, KeyError, TypeError):
            raise Interrupted(f"{host} gives no token") from None


KINDS = {"oidc": Oidc, "s3": S3, "sas": Sas}


def credentials_of(source: dict) -> Credentials:
    """Return the credentials that a source asks for.

    Raises CredentialsError if an environment variable that it needs is not set.
    """
    settings = source.get("credentials")
    return KINDS[settings["type"]](settings) if settings else Credentials()


def _refreshing(token: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": token}
