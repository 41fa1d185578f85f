"""Credentials of a source: from environment variables, to the hosts they are meant for only.

They go over https, unless the source says `plain_http`, for a service on a network of one's own.
Logins and tokens are shared by all jobs of a working directory, so that a run logs in once. No
secret goes into a log, an error, a manifest or a command line.
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
from basemake.system.shared_state import shared
from basemake.web.access import ONLY_HTTPS, Access, Credentials, CredentialsError
from basemake.web.addresses import allowed_hosts
from basemake.web.session import BUSY, TIMEOUT, Interrupted, no_netrc, read_answer, retry_after

MARGIN = 60  # seconds before its end at which a token is renewed
PRESIGNED = 3600  # seconds that a presigned address lives
LARGEST_TOKEN = 1 << 20  # bytes of an answer with a token, which has some thousands


class Oidc(Credentials):
    """A bearer token by OpenID Connect, from a refresh token or a user name and password."""

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
        except NO_TOKEN:
            raise Interrupted(f"{urlsplit(url).netloc} gives no token") from None


class S3(Credentials):
    """Addresses presigned with the user's keys (signature v4, path style), or open ones."""

    def __init__(self, settings: dict) -> None:
        """Take the source's `credentials`: endpoint, region, names of variables or none."""
        import boto3  # late: only these sources need it
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
        self.origins = _origins(settings)
        _check_encrypted(settings, "token_url")
        self._used: str | None = None

    def address(self, href: str) -> str:
        """Return the address with the token as its query, at the token's hosts only."""
        if not self._are_for(href):
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
        url = self._settings["token_url"]
        status, body = _ask(url)
        try:
            said = json.loads(body)
            ends = datetime.fromisoformat(said["msft:expiry"]).timestamp()
            state.update(token=_token(said["token"]), ends=ends)
        except NO_TOKEN:
            host = urlsplit(url).netloc
            raise Interrupted(f"{host} answers {status}, and gives no token") from None


# What is raised where an answer is not one with a token.
NO_TOKEN = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)
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
    """Return the origins of a source's hosts that may see credentials."""
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
    """Return status and body of what a service of tokens answers; Interrupted if that may pass.

    Redirects are not followed: they could lead anywhere, and to http.
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
            if answer.status_code in BUSY:
                wait = retry_after(answer.headers.get("Retry-After"))
                raise Interrupted(f"{host} answers {answer.status_code}, asked for a token", wait)
            return answer.status_code, read_answer(answer, LARGEST_TOKEN)
    except requests.RequestException:
        raise Interrupted(f"{host} could not be reached for a token") from None


def _token(token: str) -> str:
    """Return a token; ValueError if it is not one that a header or an address can hold."""
    if not re.fullmatch("[!-~]+", token):
        raise ValueError("not a token")
    return token


def _refreshing(token: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": token}
