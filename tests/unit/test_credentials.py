"""Credentials: one login for all jobs, renewed in time, shown to no host but their own."""

import gzip
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import requests

from basemake.errors import BasemakeError
from basemake.web.access import Credentials, CredentialsError
from basemake.web.credentials import S3, Oidc, Sas, credentials_of
from basemake.web.session import Interrupted
from servers import (
    Answer,
    FaultyServer,
    S3Keys,
    SasTokens,
    Tokens,
    certificate,
    redirect,
    s3_server,
    status,
)

CHECKOUT = Path(__file__).resolve().parents[2]
VARIABLES = {
    "user": "TEST_USER",
    "password": "TEST_PASSWORD",
    "totp": "TEST_TOTP",
    "refresh_token": "TEST_REFRESH_TOKEN",
}


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*VARIABLES.values(), "TEST_KEY", "TEST_SECRET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({"/data/a": b"right"}) as server:
        yield server


def oidc(server: FaultyServer, tokens: Tokens) -> Oidc:
    settings = {
        "type": "oidc",
        "token_url": tokens.url,
        "client_id": "cdse-public",
        "hosts": [server.host],
        "variables": VARIABLES,
        "plain_http": True,
    }
    credentials = credentials_of(settings)
    assert isinstance(credentials, Oidc)
    return credentials


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch):
    """A function that puts a user's secrets into the environment."""

    def login(tokens: Tokens, **changes: str) -> None:
        monkeypatch.setenv("TEST_USER", tokens.user)
        monkeypatch.setenv("TEST_PASSWORD", tokens.password)
        for name, value in changes.items():
            monkeypatch.setenv(VARIABLES[name], value)

    return login


def get(server: FaultyServer, credentials: Credentials, path: str = "/data/a") -> int:
    """Ask for a path with credentials; return the status."""
    address = credentials.address(server.url + path)
    return requests.get(address, headers=credentials.headers(address), timeout=5).status_code


def refusal(server: FaultyServer, credentials: Credentials, *secrets: str) -> str:
    with pytest.raises(CredentialsError) as caught:
        credentials.headers(f"{server.url}/data/a")
    message = str(caught.value)
    assert "\n" not in message
    assert not [secret for secret in secrets if secret in message]
    return message


# -- OpenID Connect -------------------------------------------------------------------------------


def test_one_login_serves_all_requests(server: FaultyServer, user) -> None:
    tokens = Tokens(server)
    server.protect("/data", tokens.allows)
    user(tokens)
    for credentials in (oidc(server, tokens), oidc(server, tokens)):
        assert [get(server, credentials) for _ in range(3)] == [200] * 3
    assert (tokens.logins, tokens.refreshes) == (1, 0)


JOB = f"""
import json, sys
sys.path.insert(0, {str(CHECKOUT / "scripts")!r})
from basemake.web.credentials import credentials_of
import requests
credentials = credentials_of(json.loads(sys.stdin.read()))
address = sys.argv[1]
for _ in range(3):
    answer = requests.get(address, headers=credentials.headers(address), timeout=9)
    assert answer.status_code == 200, answer.status_code
"""


def test_parallel_jobs_share_one_login(server: FaultyServer, user) -> None:
    import json

    tokens = Tokens(server)
    server.protect("/data", tokens.allows)
    user(tokens)
    command = [sys.executable, "-c", JOB, f"{server.url}/data/a"]
    jobs = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(4)]
    for job in jobs:
        job.stdin.write(json.dumps(oidc(server, tokens)._settings))
        job.stdin.close()
    assert [job.wait(30) for job in jobs] == [0] * 4
    assert (tokens.logins, tokens.refreshes) == (1, 0)
    assert len(server.asked("/data/a")) == 12


def test_a_login_is_kept_privately(server: FaultyServer, user, tmp_path: Path) -> None:
    tokens = Tokens(server)
    user(tokens)
    oidc(server, tokens).headers(f"{server.url}/data/a")
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    holding = [path for path in kept if any(s in path.read_text() for s in tokens.secrets[1:])]
    assert holding
    for path in holding:
        assert path.parent.name == ".basemake"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert tokens.password not in path.read_text()


def test_a_token_is_renewed_before_it_ends(server: FaultyServer, user) -> None:
    """By its refresh token, which is no new login."""
    tokens = Tokens(server, lifetime=30)
    server.protect("/data", tokens.allows)
    user(tokens)
    credentials = oidc(server, tokens)
    assert [get(server, credentials) for _ in range(3)] == [200] * 3
    assert tokens.logins == 1
    assert tokens.refreshes == 2


def test_a_refused_token_is_renewed_once(server: FaultyServer, user) -> None:
    tokens = Tokens(server)
    server.protect("/data", tokens.allows)
    user(tokens)
    one, another = oidc(server, tokens), oidc(server, tokens)
    assert (get(server, one), get(server, another)) == (200, 200)
    tokens.expire()
    assert (get(server, one), get(server, another)) == (401, 401)
    one.renew()
    another.renew()
    assert (get(server, one), get(server, another)) == (200, 200)
    assert (tokens.logins, tokens.refreshes) == (1, 1)


def test_a_session_that_ended_is_begun_again(server: FaultyServer, user) -> None:
    tokens = Tokens(server)
    server.protect("/data", tokens.allows)
    user(tokens)
    credentials = oidc(server, tokens)
    get(server, credentials)
    tokens.revoke()
    assert get(server, credentials) == 401
    credentials.renew()
    assert get(server, credentials) == 200
    assert tokens.logins == 2


@pytest.mark.parametrize("refresh_lifetime", [30, 3600])
def test_a_refresh_token_that_ends_soon_is_not_used(
    server: FaultyServer, user, refresh_lifetime: float
) -> None:
    tokens = Tokens(server, lifetime=30, refresh_lifetime=refresh_lifetime)
    user(tokens)
    credentials = oidc(server, tokens)
    for _ in range(2):
        credentials.headers(f"{server.url}/data/a")
    assert tokens.logins == (2 if refresh_lifetime == 30 else 1)


def test_a_users_refresh_token_needs_no_password(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(server)
    server.protect("/data", tokens.allows)
    monkeypatch.setenv("TEST_REFRESH_TOKEN", tokens.new_refresh_token())
    credentials = oidc(server, tokens)
    assert get(server, credentials) == 200
    tokens.expire()
    assert get(server, credentials) == 401
    credentials.renew()
    assert get(server, credentials) == 200
    assert (tokens.logins, tokens.refreshes) == (0, 2)


def test_a_dead_refresh_token_gives_way_to_the_password(server: FaultyServer, user) -> None:
    tokens = Tokens(server)
    server.protect("/data", tokens.allows)
    user(tokens, refresh_token="dead")
    assert get(server, oidc(server, tokens)) == 200
    assert (tokens.logins, tokens.refusals) == (1, 1)


def test_a_new_refresh_token_is_used(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an old one that has been used up, in the same working directory."""
    tokens = Tokens(server)
    server.protect("/data", tokens.allows)
    for _ in range(2):
        monkeypatch.setenv("TEST_REFRESH_TOKEN", tokens.new_refresh_token())
        credentials = oidc(server, tokens)
        get(server, credentials)
        credentials.renew()
        assert get(server, credentials) == 200
        tokens.revoke()


def test_a_dead_refresh_token_alone_is_refused(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(server)
    monkeypatch.setenv("TEST_REFRESH_TOKEN", "dead-token")
    message = refusal(server, oidc(server, tokens), "dead-token")
    assert "TEST_REFRESH_TOKEN" in message or "TEST_PASSWORD" in message
    assert tokens.refusals <= 2


def test_a_one_time_code_goes_along(server: FaultyServer, user) -> None:
    tokens = Tokens(server, totp="123456")
    server.protect("/data", tokens.allows)
    user(tokens, totp="123456")
    assert get(server, oidc(server, tokens)) == 200


@pytest.mark.parametrize("wrong", [{"password": "wrong-word"}, {"totp": "999999"}])
def test_a_refused_login_names_the_variables(server: FaultyServer, user, wrong: dict) -> None:
    tokens = Tokens(server)
    user(tokens, **wrong)
    message = refusal(server, oidc(server, tokens), tokens.password, *wrong.values())
    assert "TEST_USER" in message
    assert "TEST_PASSWORD" in message
    assert tokens.refusals == 1


def test_missing_variables_are_named(server: FaultyServer) -> None:
    tokens = Tokens(server)
    message = refusal(server, oidc(server, tokens))
    assert "TEST_USER" in message
    assert "TEST_PASSWORD" in message
    assert not server.log


def test_a_token_is_shown_to_its_hosts_only(server: FaultyServer, user) -> None:
    tokens = Tokens(server)
    user(tokens)
    credentials = oidc(server, tokens)
    assert credentials.headers(f"{server.url}/x")["Authorization"].startswith("Bearer ")
    for other in (f"http://{server.other_host}/x", "http://127.0.0.1/x", "https://example.org/x"):
        assert credentials.headers(other) == {}
    assert credentials.origins == {f"http://{server.host}", f"https://{server.host}"}


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_login_is_worth_another_try(server: FaultyServer, user, code: int) -> None:
    tokens = Tokens(server)
    user(tokens)
    server.script(tokens.url.removeprefix(server.url), status(code, 2))
    credentials = oidc(server, tokens)
    with pytest.raises(Interrupted, match=str(code)):
        credentials.headers(f"{server.url}/data/a")
    assert credentials.headers(f"{server.url}/data/a")
    assert tokens.logins == 1


def test_a_login_that_cannot_be_reached_is_worth_another_try(server: FaultyServer, user) -> None:
    tokens = Tokens(server)
    user(tokens)
    credentials = oidc(server, tokens)
    credentials._settings["token_url"] = "http://127.0.0.1:9/token"
    with pytest.raises(Interrupted):
        credentials.headers(f"{server.url}/data/a")


NO_TOKENS = [
    b"<html>Sign in",
    b"",
    b"{}",
    b"[]",
    b"null",
    b"7",
    b"[" * 100_000,
    b"\xff\xfe",
    b'{"access_token": null, "token": null, "msft:expiry": null}',
    b'{"access_token": 7, "token": 7, "msft:expiry": 7}',
    b'{"access_token": "a b", "token": "a\\nb", "msft:expiry": "2099-01-01T00:00:00Z"}',
    '{"access_token": "\u20ac", "token": "\\ud800", "msft:expiry": "2099-01-01"}'.encode(),
    b'{"access_token": "a", "expires_in": [], "token": "a", "msft:expiry": "soon"}',
    b'{"access_token": "a", "expires_in": 1%s, "token": "a", "msft:expiry": []}' % (b"0" * 400),
    b'{"access_token": "a", "refresh_token": {"a": 1}, "token": "a", "msft:expiry": ""}',
]


@pytest.mark.parametrize("body", NO_TOKENS)
def test_an_answer_that_is_no_token_is_one_sentence(
    server: FaultyServer, user, body: bytes
) -> None:
    tokens = Tokens(server)
    user(tokens)
    server.routes.insert(0, ("POST", "/auth", lambda asked: Answer(200, body)))
    with pytest.raises((CredentialsError, Interrupted)):
        oidc(server, tokens).headers(f"{server.url}/data/a")


@pytest.mark.parametrize("body", NO_TOKENS)
def test_an_answer_that_is_no_shared_token_is_one_sentence(
    server: FaultyServer, body: bytes
) -> None:
    credentials = sas(server, SasTokens(server))
    server.routes.insert(0, ("GET", "/api/sas", lambda asked: Answer(200, body)))
    with pytest.raises((CredentialsError, Interrupted)):
        credentials.address(f"{server.url}/data/a")


@pytest.mark.parametrize("kind", ["oidc", "sas"])
def test_an_answer_with_a_token_that_is_too_large_is_one_sentence(
    server: FaultyServer, user, kind: str
) -> None:
    tokens = Tokens(server)
    user(tokens)
    body = gzip.compress(b'"' + b" " * (100 << 20), 6)
    answer = Answer(200, body, {"Content-Encoding": "gzip"})
    credentials = oidc(server, tokens) if kind == "oidc" else sas(server, SasTokens(server))
    ask = credentials.headers if kind == "oidc" else credentials.address
    for method, prefix in (("POST", "/auth"), ("GET", "/api/sas")):
        server.routes.insert(0, (method, prefix, lambda asked: answer))
    tracemalloc.start()
    try:
        with pytest.raises(BasemakeError, match=f"{server.host} gives an answer of more than 1 MB"):
            ask(f"{server.url}/data/a")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


# -- Encryption -----------------------------------------------------------------------------------


def encrypted(kind: str, **changes: object) -> dict:
    """The credentials of a source whose service is at example.org."""
    address = "https://example.org/tokens"
    kinds = {
        "oidc": {"token_url": address, "client_id": "x", "variables": VARIABLES},
        "sas": {"token_url": address},
        "s3": {"endpoint": "https://example.org", "region": "default"},
    }
    settings = {"type": kind, **kinds[kind]}
    if kind == "s3":
        settings["variables"] = {"key": "TEST_KEY", "secret": "TEST_SECRET"}
    else:
        settings["hosts"] = ["data.example.org", "127.0.0.1:8000"]
    return settings | changes


@pytest.mark.parametrize(
    ("kind", "key"), [("oidc", "token_url"), ("sas", "token_url"), ("s3", "endpoint")]
)
@pytest.mark.parametrize("address", ["http://example.org/x", "HTTP://127.0.0.1:8000"])
def test_secrets_are_not_sent_to_an_address_that_is_not_encrypted(
    monkeypatch: pytest.MonkeyPatch, kind: str, key: str, address: str
) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    monkeypatch.setenv("TEST_SECRET", "s")
    credentials_of(encrypted(kind))
    with pytest.raises(CredentialsError, match=f"credentials.{key} is {address}, .* over https"):
        credentials_of(encrypted(kind, **{key: address}))
    credentials_of(encrypted(kind, **{key: address}, plain_http=True))


def test_an_open_object_store_needs_no_encryption() -> None:
    open_to_all = encrypted("s3", endpoint="http://example.org", variables={})
    address = credentials_of(open_to_all).address("s3://bucket/key")
    assert address == "http://example.org/bucket/key"


@pytest.mark.parametrize("kind", ["oidc", "sas"])
@pytest.mark.parametrize("host", ["data.example.org", "127.0.0.1:8000", "DATA.example.org"])
def test_an_address_over_http_gets_no_credentials(user, kind: str, host: str) -> None:
    credentials = credentials_of(encrypted(kind))
    other = f"http://other.example.org/{host}"
    assert (credentials.headers(other), credentials.address(other)) == ({}, other)
    ask = credentials.headers if kind == "oidc" else credentials.address
    with pytest.raises(CredentialsError) as caught:
        ask(f"http://{host}/B04.tif?sig=hush")
    message = str(caught.value)
    assert f"http://{host}/B04.tif" in message
    assert "hush" not in message
    assert "https only" in message
    assert "plain_http: true" in message


def test_a_token_goes_over_https_and_its_redirects_are_not_followed(
    server: FaultyServer, user, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with FaultyServer({"/data/a": b"right"}, certificate=path) as secure:
        tokens, shared_tokens = Tokens(secure), SasTokens(secure)
        user(tokens)
        secure.protect("/data", lambda asked: tokens.allows(asked) or shared_tokens.allows(asked))
        ours = {"hosts": [secure.host]}
        settings = encrypted("oidc", token_url=tokens.url, client_id="cdse-public", **ours)
        login = credentials_of(settings)
        token_url = f"{shared_tokens.url}/mosaics"
        sharing = credentials_of(encrypted("sas", token_url=token_url, **ours))
        for path_of_tokens in (tokens.url, token_url):
            target = redirect(f"{server.url}/token", 307)
            secure.script(path_of_tokens.removeprefix(secure.url), target)
        for credentials, used in ((login, login.headers), (sharing, sharing.address)):
            with pytest.raises((CredentialsError, Interrupted)):
                used(f"{secure.url}/data/a")
            assert get(secure, credentials) == 200
        assert not server.log


def test_a_users_netrc_does_not_disturb_a_login(
    server: FaultyServer, user, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    tokens = Tokens(server)
    user(tokens)
    oidc(server, tokens).headers(f"{server.url}/data/a")
    assert "authorization" not in server.log[0].headers


# -- S3 -------------------------------------------------------------------------------------------


def s3(endpoint: str, **changes: object) -> S3:
    settings = {"type": "s3", "endpoint": endpoint, "region": "default", "plain_http": True}
    settings["variables"] = {"key": "TEST_KEY", "secret": "TEST_SECRET"}
    credentials = credentials_of({**settings, **changes})
    assert isinstance(credentials, S3)
    return credentials


@pytest.mark.parametrize("name", ["a/B02.tif", "Global-Mosaics/a b+c&d=é/B02.tif"])
def test_an_object_is_asked_for_by_a_signed_path(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    keys = S3Keys()
    server.protect("/eodata", keys.allows, 403)
    monkeypatch.setenv("TEST_KEY", keys.access_key)
    monkeypatch.setenv("TEST_SECRET", keys.secret_key)
    # What the machine has of its own is no business of a source's.
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-account")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    address = s3(server.url).address(f"s3://eodata/{name}")
    assert address.startswith(f"{server.url}/eodata/")
    assert keys.secret_key not in address
    answer = requests.get(address, headers={"Range": "bytes=3-"}, timeout=5)
    assert keys.refusals == []
    assert answer.status_code == 404  # let in, and not there
    assert requests.get(address + "0", timeout=5).status_code == 403


def test_an_object_store_of_others_gives_objects_signed_and_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with s3_server() as endpoint:
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, **keys)
        client.create_bucket(Bucket="eodata")
        client.put_object(Bucket="eodata", Key="a/B02.tif", Body=b"signed")
        client.put_object(Bucket="eodata", Key="b/B02.tif", Body=b"open", ACL="public-read")
        monkeypatch.setenv("TEST_KEY", "k")
        monkeypatch.setenv("TEST_SECRET", "s")
        signed = s3(endpoint).address("s3://eodata/a/B02.tif")
        assert requests.get(signed, timeout=5).content == b"signed"
        anyone = s3(endpoint, variables={})
        assert requests.get(anyone.address("s3://eodata/a/B02.tif"), timeout=5).status_code == 403
        opened = anyone.address("s3://eodata/b/B02.tif")
        assert opened == f"{endpoint}/eodata/b/B02.tif"
        assert requests.get(opened, timeout=5).content == b"open"


def test_missing_keys_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "k-of-the-user")
    with pytest.raises(CredentialsError, match="TEST_SECRET") as caught:
        s3("http://127.0.0.1:9")
    assert "k-of-the-user" not in str(caught.value)


# -- Shared-access tokens -------------------------------------------------------------------------


def sas(server: FaultyServer, tokens: SasTokens) -> Sas:
    settings = {"type": "sas", "token_url": f"{tokens.url}/sentinel-2-l2a", "hosts": [server.host]}
    settings["plain_http"] = True
    credentials = credentials_of(settings)
    assert isinstance(credentials, Sas)
    return credentials


def test_one_token_signs_all_addresses(server: FaultyServer) -> None:
    tokens = SasTokens(server)
    server.protect("/data", tokens.allows, 403)
    for credentials in (sas(server, tokens), sas(server, tokens)):
        assert [get(server, credentials) for _ in range(2)] == [200] * 2
        assert get(server, credentials, "/data/a?x=1") == 200
    assert tokens.issued == 1
    for other in (f"http://{server.other_host}/x", "https://example.org/x"):
        assert sas(server, tokens).address(other) == other


def test_a_shared_token_that_ends_soon_is_not_used(server: FaultyServer) -> None:
    tokens = SasTokens(server, lifetime=30)
    server.protect("/data", tokens.allows, 403)
    credentials = sas(server, tokens)
    assert [get(server, credentials) for _ in range(3)] == [200] * 3
    assert tokens.issued == 3


def test_a_refused_shared_token_is_renewed_once(server: FaultyServer) -> None:
    tokens = SasTokens(server)
    server.protect("/data", tokens.allows, 403)
    credentials = sas(server, tokens)
    get(server, credentials)
    tokens.expire()
    assert get(server, credentials) == 403
    credentials.renew()
    assert get(server, credentials) == 200
    assert tokens.issued == 2


def test_jobs_that_are_refused_together_ask_once(server: FaultyServer) -> None:
    tokens = SasTokens(server)
    server.protect("/data", tokens.allows, 403)
    jobs = [sas(server, tokens) for _ in range(3)]
    assert [get(server, job) for job in jobs] == [200] * 3
    tokens.expire()
    for job in jobs:
        assert job.renew()
        assert get(server, job) == 200
    assert tokens.issued == 2


def test_no_shared_token_is_worth_another_try(server: FaultyServer) -> None:
    tokens = SasTokens(server)
    server.script("/api/sas/v1/token/sentinel-2-l2a", status(429, 1), status(503))
    credentials = sas(server, tokens)
    for _ in range(2):
        with pytest.raises(Interrupted):
            credentials.address(f"{server.url}/data/a")
    assert "sig=" in credentials.address(f"{server.url}/data/a")


# -- None -----------------------------------------------------------------------------------------


def test_without_credentials_addresses_stay_and_a_refusal_is_final() -> None:
    credentials = credentials_of(None)
    assert credentials.address("https://example.org/a") == "https://example.org/a"
    assert credentials.headers("https://example.org/a") == {}
    assert not credentials.renew()
