"""Who may: OpenID Connect as the Copernicus Data Space has it, Azure's SAS tokens, S3's signatures.

Each keeps the secrets that it gave out, so that a test can look where they went.
"""

import hashlib
import hmac
import json
import secrets
import time
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from servers.faulty import Answer, Asked, FaultyServer

TOKEN_PATH = "/auth/realms/CDSE/protocol/openid-connect/token"
SAS_PATH = "/api/sas/v1/token/"


def _json(status: int, document: dict) -> Answer:
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


class Tokens:
    """Logins and refreshes at `url`; lifetimes are in seconds."""

    def __init__(
        self,
        server: FaultyServer,
        *,
        user: str = "somebody@example.org",
        password: str = "pass-word-of-somebody",
        totp: str | None = None,
        lifetime: float = 600,
        refresh_lifetime: float = 3600,
    ):
        self.user, self.password, self.totp = user, password, totp
        self.lifetime, self.refresh_lifetime = lifetime, refresh_lifetime
        self.logins = self.refreshes = self.refusals = 0
        self.secrets = [password, *([totp] if totp else [])]
        self._access: dict[str, float] = {}
        self._refresh: dict[str, float] = {}
        self.url = server.url + TOKEN_PATH
        server.route("POST", TOKEN_PATH, self.answer)

    def answer(self, asked: Asked) -> Answer:
        """Answer a request for tokens."""
        form = dict(parse_qsl(asked.body.decode()))
        if form.get("client_id") != "cdse-public":
            return self._refuse(400, "invalid_client", "Invalid client credentials")
        if form.get("grant_type") == "password":
            given = form.get("username"), form.get("password")
            if given != (self.user, self.password) or form.get("totp") != self.totp:
                return self._refuse(401, "invalid_grant", "Invalid user credentials")
            self.logins += 1
        elif form.get("grant_type") == "refresh_token":
            if self._refresh.get(form.get("refresh_token", ""), 0) < time.monotonic():
                return self._refuse(400, "invalid_grant", "Token is not active")
            self.refreshes += 1
        else:
            return self._refuse(400, "unsupported_grant_type", "Unsupported grant_type")
        return _json(
            200,
            {
                "access_token": self._issue(self._access, self.lifetime, "access"),
                "expires_in": self.lifetime,
                "refresh_token": self.new_refresh_token(),
                "refresh_expires_in": self.refresh_lifetime,
                "token_type": "Bearer",
            },
        )

    def new_refresh_token(self) -> str:
        """A refresh token, such as a user may have from elsewhere."""
        return self._issue(self._refresh, self.refresh_lifetime, "refresh")

    def allows(self, asked: Asked) -> bool:
        """Say whether a request bears a token that is good; for FaultyServer.protect."""
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and self._access.get(token, 0) > time.monotonic()

    def expire(self) -> None:
        """Let no access token given out so far be good any more."""
        self._access.clear()

    def revoke(self) -> None:
        """Let no token given out so far be good any more, nor refresh any."""
        self._access.clear()
        self._refresh.clear()

    def _issue(self, tokens: dict[str, float], lifetime: float, kind: str) -> str:
        token = f"{kind}-{secrets.token_hex(16)}"
        tokens[token] = time.monotonic() + lifetime
        self.secrets.append(token)
        return token

    def _refuse(self, status: int, error: str, description: str) -> Answer:
        self.refusals += 1
        return _json(status, {"error": error, "error_description": description})


class SasTokens:
    """Tokens of collections at `url`/{collection}, for the query of an address."""

    def __init__(self, server: FaultyServer, *, lifetime: float = 2700):
        self.lifetime = lifetime
        self.issued = 0
        self.secrets: list[str] = []
        self._signatures: dict[str, float] = {}
        self.url = server.url + SAS_PATH.rstrip("/")
        server.route("GET", SAS_PATH, self.answer)

    def answer(self, asked: Asked) -> Answer:
        """Answer a request for a token."""
        signature = secrets.token_hex(20)
        self.issued += 1
        self.secrets.append(signature)
        self._signatures[signature] = time.time() + self.lifetime
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lifetime))
        token = f"se={moment.replace(':', '%3A')}&sp=rl&sv=2025-01-05&sr=c&sig={signature}%3D"
        return _json(200, {"msft:expiry": moment, "token": token})

    def allows(self, asked: Asked) -> bool:
        """Say whether a request is signed by a token that is good; for FaultyServer.protect."""
        signature = asked.query.get("sig", "").removesuffix("=")
        return self._signatures.get(signature, 0) > time.time()

    def expire(self) -> None:
        """Let no token given out so far be good any more."""
        self._signatures.clear()


class S3Keys:
    """A pair of keys, and who signed addresses by them (signature version 4, in the query)."""

    def __init__(self, *, region: str = "default"):
        self.access_key = f"AK{secrets.token_hex(9).upper()}"
        self.secret_key = secrets.token_hex(20)
        self.region = region
        self.secrets = [self.secret_key]
        self.refusals: list[str] = []

    def allows(self, asked: Asked) -> bool:
        """Say whether a request is signed by these keys; for FaultyServer.protect."""
        problem = self._problem(asked)
        self.refusals += [problem] if problem else []
        return not problem

    def _problem(self, asked: Asked) -> str:
        query = dict(asked.query)
        signature = query.pop("X-Amz-Signature", "")
        if not signature:
            return "not signed"
        self.secrets.append(signature)
        key, date, *scope = query["X-Amz-Credential"].split("/")
        if key != self.access_key or scope != [self.region, "s3", "aws4_request"]:
            return f"signed for {key}, {scope}"
        moment = query["X-Amz-Date"]
        age = datetime.now(UTC) - datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if not -5 < age.total_seconds() < int(query["X-Amz-Expires"]):
            return "expired"
        names = query["X-Amz-SignedHeaders"].split(";")
        headers = "".join(f"{name}:{asked.headers.get(name, '').strip()}\n" for name in names)
        pairs = (f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in sorted(query.items()))
        canonical = "\n".join(
            [
                asked.method,
                asked.path,
                "&".join(pairs),
                headers,
                ";".join(names),
                "UNSIGNED-PAYLOAD",
            ]
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{moment}\n{'/'.join([date, *scope])}\n{digest}"
        signed = f"AWS4{self.secret_key}".encode()
        for word in [date, *scope, text]:
            signed = hmac.digest(signed, word.encode(), "sha256")
        return "" if hmac.compare_digest(signed.hex(), signature) else "wrong signature"
