"""HTTP requests at the pace that a service allows, with retries, and to allowed hosts only."""

import errno
import logging
import random
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.exceptions import ChunkedEncodingError, ConnectionError, ContentDecodingError, Timeout
from urllib3.exceptions import HTTPError

from basemake import __version__
from basemake.build.source import Limits
from basemake.errors import BandError, BasemakeError
from basemake.system.shared_state import run_began, shared
from basemake.web.access import Access
from basemake.web.addresses import check_url, origin

BUSY = (429, 500, 502, 503, 504)
# A transfer that is read from urllib3 directly breaks with its own errors.
BROKEN = (ConnectionError, Timeout, ChunkedEncodingError, ContentDecodingError, HTTPError)
BROKEN_BODY = (*BROKEN, ValueError)  # raised by the standard library for a bad chunk
CONNECT_SECONDS = 10
TIMEOUT = (CONNECT_SECONDS, 60)  # the second is between two reads
# Bytes of a decompressed answer to a search: 1000 items of 4 to 30 kB each fit.
LARGEST_ANSWER = 32 << 20
PIECE = 64 << 10  # bytes of an answer that are decompressed at a time
FIRST_WAIT = 1.0  # seconds at most before the second try; doubled after each failure
# Seconds of patience with a host that could not be reached since the run began. A last try may take
# CONNECT_SECONDS more.
NEVER_REACHED_SECONDS = 20.0


class NetworkError(BasemakeError):
    """A service could not be reached, or was busy, for longer than the source's patience."""


class Interrupted(Exception):
    """A failure that may pass, so that the request is worth another try.

    `wait` is the time in seconds that the service asks to wait first, or None. `unreached` is the
    host, if there is no connection to it at all, or None.
    """

    def __init__(
        self, problem: str, wait: float | None = None, unreached: str | None = None
    ) -> None:
        """Take the problem, in words without secrets."""
        super().__init__(problem)
        self.wait, self.unreached = wait, unreached


class Patience:
    """Waits between tries: exponential backoff with jitter, until the source's patience ends.

    Of `limits` it uses patience_seconds (without progress) and longest_wait_seconds (at a time).
    Patience is for services that have answered: with a host that could not be reached since the run
    began it ends after NEVER_REACHED_SECONDS.
    """

    def __init__(self, limits: Limits) -> None:
        """Start to measure the time without progress."""
        self._limits = limits
        self.progressed()

    def progressed(self) -> None:
        """Forget earlier failures, because new bytes have arrived."""
        self._since = time.monotonic()
        self._failures = 0

    def wait(self, failure: Interrupted) -> None:
        """Print the failure and sleep before the next try; NetworkError when patience ends."""
        limits, host = self._limits, failure.unreached
        # Full jitter, so that jobs that failed together do not try again together.
        cap = limits.longest_wait_seconds
        wished = random.uniform(0, min(cap, FIRST_WAIT * 2.0 ** min(self._failures, 30)))
        if failure.wait is not None:
            # Some services give milliseconds where the standard has seconds, hence the cap.
            wished += failure.wait
        pause = min(wished, cap)
        self._failures += 1
        elapsed = time.monotonic() - self._since
        if host and elapsed + pause > NEVER_REACHED_SECONDS and not has_answered(host):
            why = str(failure).removeprefix(f"{host}: ")
            raise NetworkError(
                f"cannot reach {host}: are you online? ({why}; {self._failures} tries in"
                f" {elapsed:.0f} s)."
            )
        if elapsed + pause > limits.patience_seconds:
            raise NetworkError(
                f"{failure}, for {limits.patience_seconds} s without progress after"
                f" {self._failures} tries; run again later."
            )
        told = f"{failure}; next try in {pause:.1f} s"
        logging.info(told)
        print(told, file=sys.stderr, flush=True)
        time.sleep(pause)


class Session(requests.Session):
    """A requests session that keeps a source's limits.

    Requests to one host are spaced by requests_per_minute over all jobs of the working directory.
    Busy answers and broken connections raise Interrupted. Redirects are followed to allowed hosts
    only, and never from https to http; they carry credentials only to the origins of `access`.
    """

    def __init__(self, access: Access) -> None:
        """Send requests within the limits and to the hosts of `access`."""
        super().__init__()
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings hold whole addresses
        self.max_redirects = 5
        self.auth = no_netrc
        self.headers["User-Agent"] = f"basemake/{__version__}"
        self.access = access
        self._answered: set[str] = set()

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request, or the next of its redirects, once and when it is the host's turn.

        Raises BandError, before anything is sent, if the host is not allowed, and Interrupted for
        a busy answer or a broken connection.
        """
        check_url(str(request.url), self.access.hosts)
        kwargs["timeout"] = CONNECT_SECONDS, self.access.limits.stall.seconds
        host = urlsplit(str(request.url)).netloc
        self._take_turn(host)
        try:
            response = super().send(request, **kwargs)
        except BROKEN as error:
            raise broken(host, error) from None
        if host not in self._answered:
            self._answered.add(host)
            note_answer(host)
        if response.status_code in BUSY:
            wait = retry_after(response.headers.get("Retry-After"))
            response.close()
            self._put_off(host, wait)
            raise Interrupted(f"{host} answers {response.status_code} {response.reason}", wait)
        return response

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Remove the credentials from a redirected request unless its new origin may see them.

        Raises BandError if it leads from https to http, since the address itself may be signed.
        """
        old, new = origin(str(response.url)), origin(str(prepared_request.url))
        if old.startswith("https:") and not new.startswith("https:"):
            raise BandError(f"{old} redirects to {new}, which is not encrypted; allowed: https.")
        if new not in self.access.credentials.origins:
            prepared_request.headers.pop("Authorization", None)

    def get_redirect_target(self, response: requests.Response) -> str | None:
        """Return the address that an answer redirects to, or None; BandError if it is not valid.

        The body of a redirect is not read, as it may be of any size.
        """
        if response.is_redirect:
            response.close()
        try:
            target = super().get_redirect_target(response)
            urlsplit(target or "")
        except ValueError as error:
            raise BandError(
                f"{origin(str(response.url))} redirects to an invalid address ({error})."
            ) from None
        return target

    def _take_turn(self, host: str) -> None:
        """Wait until this host may be asked again; all jobs share one queue."""
        interval = 60 / self.access.limits.requests_per_minute
        with shared(f"pace-{host}") as pace:
            turn = max(time.time(), pace.get("next", 0))
            # A clock that was set back must not delay jobs for longer than a service may.
            turn = min(turn, time.time() + self.access.limits.longest_wait_seconds)
            pace["next"] = turn + interval
        time.sleep(max(0, turn - time.time()))

    def _put_off(self, host: str, wait: float | None) -> None:
        """Make all jobs wait for this host, if the service asked for a `wait` in seconds."""
        if wait:
            with shared(f"pace-{host}") as pace:
                later = time.time() + min(wait, self.access.limits.longest_wait_seconds)
                pace["next"] = max(pace.get("next", 0), later)


class PatientSession(Session):
    """A session that retries by itself and reads each answer whole."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Return the first answer that is neither busy nor broken, its body read.

        Raises NetworkError when patience ends or the answer is larger than LARGEST_ANSWER.
        """
        patience = Patience(self.access.limits)
        while True:
            try:
                answer = super().send(request, **{**kwargs, "stream": True})
                read_answer(answer, LARGEST_ANSWER)
                return answer
            except Interrupted as failure:
                patience.wait(failure)


def read_answer(answer: requests.Response, most: int) -> bytes:
    """Read, keep as `answer.content` and return the decompressed body of an answer.

    Raises Interrupted if it breaks off, NetworkError once it exceeds `most` bytes: it is read piece
    by piece, because 2 MB as sent can decompress to 2 GB.
    """
    body, host = bytearray(), urlsplit(str(answer.url)).netloc
    with answer:
        try:
            for piece in answer.iter_content(PIECE):
                body += piece
                if len(body) > most:
                    raise NetworkError(
                        f"{host} gives an answer of more than {most >> 20} MB; check the source's"
                        " addresses and its limits.page_size."
                    )
        except BROKEN_BODY as error:
            raise broken(host, error) from None
    answer._content = bytes(body)
    return answer._content


def retry_after(value: str | None) -> float | None:
    """Return the seconds from now that a Retry-After header asks for; None if it is not valid.

    Its value is a number of seconds or an HTTP date (RFC 9110, 10.2.3).
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError, TypeError):  # not a date, or of a year beyond 9999
        return None


def no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Return the request unchanged: as `auth` this keeps requests from using ~/.netrc."""
    return request


def note_answer(host: str) -> None:
    """Let all jobs know that a host answered."""
    with shared(f"pace-{host}") as pace:
        pace["answered"] = time.time()


def has_answered(host: str) -> bool:
    """Return whether a host answered any job since the run began; True if that is not known."""
    with shared(f"pace-{host}") as pace:
        return float(pace.get("answered", 0)) >= run_began()


def broken(host: str, error: Exception) -> Interrupted:
    """Return the failure of a broken connection, without the words of `error`.

    Those repeat the whole address, and with it any signature.
    """
    causes = [*_causes(error)]
    for kind, words in UNREACHED:
        if any(isinstance(cause, kind) for cause in causes):
            return Interrupted(f"{host}: {words}", unreached=host)
    if any(getattr(cause, "errno", None) in NO_ROUTE for cause in causes):
        return Interrupted(f"{host}: there is no route to it", unreached=host)
    return Interrupted(f"{host}: {_words(error)}")


# Causes of failures to connect, and words for them.
UNREACHED = (
    (socket.gaierror, "its name does not resolve"),
    (ConnectionRefusedError, "connection refused"),
    (requests.exceptions.ConnectTimeout, f"timed out: no connection within {CONNECT_SECONDS} s"),
)
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it is made of, which libraries keep in several places."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
            yield one


def _words(error: Exception) -> str:
    if isinstance(error, Timeout):
        return "timed out: no answer within the time limit"
    if isinstance(error, requests.exceptions.SSLError):
        return "the secure connection failed"
    if isinstance(error, ConnectionError):
        return "the connection broke"
    return "the answer broke off"
