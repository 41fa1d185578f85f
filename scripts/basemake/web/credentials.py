"""Credentials of a source: read from environment variables, sent only to the hosts they are for.

They are sent over https only, unless the source sets `plain_http` for a service on one's own
network. Logins and tokens are shared by all jobs of a working directory, so that a run logs in
once. No secret is written to a log, an error, a manifest or a command line.
"""

import hashlib
import json
import os
import re
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from basemake.build.source import Source
from basemake.errors import MALFORMED
from basemake.system.shared_state import shared
from basemake.web.access import ONLY_HTTPS, Access, Credentials, CredentialsError
from basemake.web.addresses import allowed_hosts
from basemake.web.session import (
    BUSY,
    TIMEOUT,
    Interrupted,
    broken,
    no_netrc,
    note_answer,
    read_answer,
    retry_after,
)

MARGIN = 60  # seconds before its end at which a token is renewed
PRESIGNED = 3600  # seconds for which a presigned address is valid
LARGEST_TOKEN = 1 << 20  # bytes of an answer with a token; real ones have a few thousand


class Oidc(Credentials):
    """Bearer tokens by OpenID Connect, for a refresh token or for a user name and password."""

    def __init__(self, settings: dict) -> None:
        """Take the source's `credentials`: token_url, client_id, hosts, names of variables."""
        self._settings = settings
        self._file = f"login-{urlsplit(settings['token_url']).netloc}"
        self.origins = _origins(settings)
        _check_encrypted(settings, "token_url")
        self._refused: str | None = None
        self._used: str | None = None

    def headers(self, address: str) -> dict[str, str]:
        """Return the bearer token for an address at one of the hosts that may see it."""
        if not self._are_for(address):
            return {}
        self._used = self._token()
        return {"Authorization": f"Bearer {self._used}"}

    def renew(self) -> bool:
        """Discard the refused token, so that the next request gets a new one."""
        self._refused = self._used
        return True

    def _token(self) -> str:
        """Return a valid token: the one that all jobs share, or a new one that replaces it."""
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
        """Return the form of a token request, by refresh token if there is one, or by password."""
        variables = self._settings["variables"]
        found = {key: os.environ.get(name, "") for key, name in variables.items()}
        client = {"client_id": self._settings["client_id"]}
        if login.get("refresh_token") and login.get("refresh_ends", 0) - MARGIN > now:
            return client | _refreshing(login["refresh_token"])
        given = found.get("refresh_token", "")
        digest = hashlib.sha256(given.encode()).hexdigest()
        if given and login.get("given") != digest:  # each one that the user gives is tried once
            login["given"] = digest
            return client | _refreshing(given)
        if not (found.get("user") and found.get("password")):
            names = [variables[key] for key in ("user", "password") if key in variables]
            raise CredentialsError(f"set the environment variables {' and '.join(names)}.")
        code = {"totp": found["totp"]} if found.get("totp") else {}
        password = {"username": found["user"], "password": found["password"]}
        return client | {"grant_type": "password"} | password | code

    def _ask(self, form: dict[str, str]) -> dict[str, Any] | None:
        """Return the tokens and when they end, as they are stored; None if the service refuses."""
        url, now = self._settings["token_url"], time.time()
        status, body = _ask(url, form)
        if status != requests.codes.ok:
            return None
        try:
            said = json.loads(body)
            refresh = said.get("refresh_token")
            return {
                "access_token": _token(said["access_token"]),
                "access_ends": now + float(said.get("expires_in", 600)),
                "refresh_token": refresh and _token(refresh),
                "refresh_ends": now + float(said.get("refresh_expires_in", 0)),
            }
        except MALFORMED:
            raise Interrupted(f"{urlsplit(url).netloc} answers without a token") from None


class S3(Credentials):
    """Addresses presigned with the user's keys (S3 signature v4, path style), or unsigned ones."""

    def __init__(self, settings: dict) -> None:
        """Take the source's `credentials`: endpoint, region, and names of variables if it signs."""
        import boto3  # here, as only S3 sources need it
        from botocore import UNSIGNED
        from botocore.config import Config

        variables = settings.get("variables", {})
        if variables:
            _check_encrypted(settings, "endpoint")
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
        """Return the presigned address of an s3:// href at the endpoint; other hrefs unchanged."""
        parts = urlsplit(href)
        if parts.scheme != "s3":
            return href
        place = {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}
        return str(self._client.generate_presigned_url("get_object", place, PRESIGNED))

    def renew(self) -> bool:
        """Return True: each address is signed anew, and the refused one may have expired."""
        return True


class Sas(Credentials):
    """Addresses signed with a shared-access (SAS) token that the service gives to anyone."""

    def __init__(self, settings: dict) -> None:
        """Take the source's `credentials`: token_url, and the hosts that the token is for."""
        self._settings = settings
        self._file = f"sas-{settings['token_url']}"
        self.origins = _origins(settings)
        _check_encrypted(settings, "token_url")
        self._used: str | None = None

    def address(self, href: str) -> str:
        """Return the address with the token in its query; unchanged at hosts that it is not for."""
        if not self._are_for(href):
            return href
        with shared(self._file) as state:
            if state.get("ends", 0) - MARGIN < time.time():
                self._ask(state)
            self._used = state["token"]
        return f"{href}{'&' if '?' in href else '?'}{self._used}"

    def renew(self) -> bool:
        """Discard the refused token, unless another job has replaced it already."""
        with shared(self._file) as state:
            if state.get("token") == self._used:
                state.clear()
        return True

    def _ask(self, state: dict) -> None:
        url = self._settings["token_url"]
        status, body = _ask(url)
        try:
            said = json.loads(body)
            ends = datetime.fromisoformat(said["msft:expiry"]).timestamp()
            state.update(token=_token(said["token"]), ends=ends)
        except MALFORMED:
            host = urlsplit(url).netloc
            raise Interrupted(f"{host} answers {status} without a token") from None


KINDS = {"oidc": Oidc, "s3": S3, "sas": Sas}


def access_to(source: Source) -> Access:
    """Return how a source's bands are reached.

    Raises CredentialsError if an environment variable that its credentials need is not set.
    """
    return Access(allowed_hosts(source), source.limits, credentials_of(source.credentials))


def credentials_of(settings: dict | None) -> Credentials:
    """Return the credentials that the `credentials` of a source file describe, if it has any.

    Raises CredentialsError if an environment variable that they need is not set.
    """
    return KINDS[settings["type"]](settings) if settings else Credentials()


def _origins(settings: dict) -> frozenset[str]:
    """Return scheme, host and port of the hosts that may see credentials."""
    schemes = ("https", "http") if settings.get("plain_http") else ("https",)
    hosts = [host.lower() for host in settings["hosts"]]
    return frozenset(f"{scheme}://{host}" for scheme in schemes for host in hosts)


def _check_encrypted(settings: dict, key: str) -> None:
    """Raise CredentialsError if secrets would go to the address `key` over plain http."""
    if urlsplit(settings[key]).scheme != "https" and not settings.get("plain_http"):
        raise CredentialsError(
            f"the source's credentials.{key} is {settings[key]}, and credentials are secrets:"
            f" {ONLY_HTTPS}"
        )


def _ask(url: str, form: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Return status and body of a token service's answer; Interrupted if the failure may pass.

    A `form` is posted, else the address is read. Redirects are not followed: they could lead to
    any host, and to http.
    """
    host = urlsplit(url).netloc
    try:
        with requests.request(
            "POST" if form else "GET",
            url,
            data=form,
            timeout=TIMEOUT,
            allow_redirects=False,
            auth=no_netrc,
            stream=True,
        ) as answer:
            note_answer(host)
            if answer.status_code in BUSY:
                wait = retry_after(answer.headers.get("Retry-After"))
                raise Interrupted(f"{host} answers {answer.status_code}, asked for a token", wait)
            return answer.status_code, read_answer(answer, LARGEST_TOKEN)
    except requests.RequestException as error:
        raise broken(host, error) from None


def _token(token: str) -> str:
    """Return `token`; ValueError if a header or an address cannot hold it."""
    if not re.fullmatch("[!-~]+", token):
        raise ValueError("not a token")
    return token


def _refreshing(token: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": token}
