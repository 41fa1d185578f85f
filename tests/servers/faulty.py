"""A web server on loopback that misbehaves as it is told, and logs all that it is asked.

It serves bytes by path, with ETag, Last-Modified and ranges as they should be, until a fault says
otherwise. Faults are scripted by path, in order, one a request; or they come at random, by a seed.
"""

import contextlib
import hashlib
import random
import re
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from fcntl import ioctl
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from termios import TIOCOUTQ
from threading import Event, Lock, Thread
from urllib.parse import parse_qs, urlsplit

PIECE = 16_384  # bytes written at a time


@dataclass(frozen=True)
class Fault:
    """What is wrong with the answer to one request; made by the functions below."""

    name: str
    status: int = 0  # 0: as it should be
    headers: dict[str, str] = field(default_factory=dict)
    after: int | None = None  # bytes of the body, after which
    end: str = "close"  # ... the connection does this: close, reset or stall
    promise: str = "whole"  # Content-Length: of the whole body, of what is sent, or of "more"
    rate: float | None = None  # bytes a second
    change: Callable[[bytes], bytes] | None = None  # what is sent instead, this once
    content: bytes | None = None  # what the path holds from now on
    ranges: bool = True


behave = Fault("behave")


def status(code: int, retry_after: str | int | None = None) -> Fault:
    """Answer `code`, with a Retry-After header if one is given."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Fault(f"status {code}", status=code, headers=headers)


def redirect(target: str, code: int = 302) -> Fault:
    return Fault("redirect", status=code, headers={"Location": target})


def reset(after: int = 0) -> Fault:
    """Reset the connection after so many bytes of the body; -1: before the status line."""
    return Fault("reset", after=after, end="reset")


def cut(after: int = 0, promise: str = "whole") -> Fault:
    """End after so many bytes of the body; `promise` is what Content-Length is of."""
    return Fault("cut", after=after, promise=promise)


def stall(after: int = 0) -> Fault:
    """Send so many bytes of the body, then nothing until the client hangs up."""
    return Fault("stall", after=after, end="stall")


def trickle(rate: float, after: int | None = None) -> Fault:
    """Send so many bytes a second."""
    return Fault("trickle", rate=rate, after=after)


def garbled() -> Fault:
    """Send other bytes, as many as the right ones."""
    return Fault("garbled", change=lambda body: bytes(255 - byte for byte in body))


def changed(content: bytes) -> Fault:
    """Hold other content from now on, with another ETag."""
    return Fault("changed", content=content)


def no_ranges() -> Fault:
    """Take no notice of Range, and say so by 200."""
    return Fault("no ranges", ranges=False)


def http_date(seconds: float) -> str:
    """The HTTP-date in so many seconds from now."""
    return formatdate(time.time() + seconds, usegmt=True)


@dataclass
class Asked:
    """One request and, from its answer on, how it was answered."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes
    client: tuple[str, int]
    start: float = field(default_factory=time.monotonic)
    seconds: float | None = None  # None: not answered yet
    in_flight: int = 0  # requests then being answered, this one included
    fault: str = ""
    status: int = 0
    sent: int = 0  # bytes of the body

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Route = Callable[[Asked], Answer]


class FaultyServer:
    """A server to be used as a context manager. `files` holds content by path.

    Content is bytes, or what has a length, slices of bytes and a `digest` (see `PatchedFile`).

    `host` and `other_host` are two names of it. `rate` limits each connection (bytes a second), and
    `latency` is what passes before each answer (seconds).
    `etags` is strong, weak, dates (Last-Modified only) or none (neither); `if_range` says whether
    the server heeds that header; `etags_in_parts` whether partial answers have any of them. It
    speaks https if it is given a certificate.
    """

    def __init__(
        self,
        files: dict[str, bytes] | None = None,
        *,
        rate: float | None = None,
        latency: float = 0.0,
        certificate: Path | None = None,
    ):
        self.files = dict(files or {})
        self.rate, self.latency = rate, latency
        self.etags = "strong"
        self.if_range = self.etags_in_parts = True
        self.certificate = certificate
        self.log: list[Asked] = []
        self.connections = 0
        self.in_flight = self.most_in_flight = 0
        self.routes: list[tuple[str, str, Route]] = []
        self._protected: list[tuple[str, Callable[[Asked], bool], int]] = []
        self._scripts: dict[str, deque[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._random: Callable[[str, int], Fault] = lambda path, number: behave
        self._counts: dict[str, int] = {}
        self._lock, self._stopped = Lock(), Event()

    def __enter__(self):
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.other_host = f"localhost:{self._server.server_port}"
        self.url = f"http://{self.host}"
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://{self.host}"
        self._thread = Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def script(self, path: str, *faults: Fault) -> str:
        """Answer the next requests for `path` with these faults, one each; return its address."""
        with self._lock:
            self._scripts.setdefault(path, deque()).extend(faults)
        return self.url + path

    def always(self, path: str, fault: Fault) -> str:
        """Answer every request for `path` with this fault; return its address."""
        self._always[path] = fault
        return self.url + path

    def misbehave(
        self, seed: int, kinds: Sequence[Fault], share: float = 0.5, row: int = 3, prefix: str = "/"
    ) -> None:
        """Give a share of requests one of the faults, never more than `row` on end to a path.

        Which one follows from the seed, the path and the how-manieth request for it this is.
        """

        def drawn(path: str, number: int) -> Fault:
            chance = random.Random(f"{seed} {path} {number}")
            return chance.choice(kinds) if chance.random() < share else behave

        def choose(path: str, number: int) -> Fault:
            if not path.startswith(prefix):
                return behave
            before = range(number - row, number)
            if number >= row and all(drawn(path, n) is not behave for n in before):
                return behave
            return drawn(path, number)

        self._random = choose

    def route(self, method: str, prefix: str, answer: Route) -> None:
        """Let `answer` answer the requests whose path begins with `prefix`."""
        self.routes.append((method, prefix, answer))

    def protect(self, prefix: str, allowed: Callable[[Asked], bool], refusal: int = 401) -> None:
        """Refuse requests for paths that begin with `prefix`, unless they are `allowed`."""
        self._protected.append((prefix, allowed, refusal))

    def asked(self, path: str | None = None, method: str | None = None) -> list[Asked]:
        """The requests so far, in order, for one path or all, by one method or any."""
        with self._lock:
            return [
                asked
                for asked in self.log
                if path in (None, asked.path) and method in (None, asked.method)
            ]

    def wait_until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Wait until a condition holds; fail if it does not in time."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the server waited in vain"
            time.sleep(0.005)

    @contextlib.contextmanager
    def _logged(self, asked: Asked) -> Iterator[Fault]:
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            asked.in_flight = self.in_flight
            number = self._counts.get(asked.path, 0)
            self._counts[asked.path] = number + 1
            scripted = self._scripts.get(asked.path)
            if scripted:
                fault = scripted.popleft()
            else:
                fault = self._always.get(asked.path) or self._random(asked.path, number)
            asked.fault = fault.name
            if fault.content is not None:
                self.files[asked.path] = fault.content
            self.log.append(asked)
        try:
            yield fault
        finally:
            with self._lock:
                self.in_flight -= 1
                asked.seconds = time.monotonic() - asked.start

    def right_answer(self, asked: Asked, ranges: bool = True) -> Answer:
        """The answer to a request when nothing is wrong."""
        for prefix, allowed, refusal in self._protected:
            if asked.path.startswith(prefix) and not allowed(asked):
                return Answer(refusal, b"not allowed")
        for method, prefix, answer in self.routes:
            if asked.method == method and asked.path.startswith(prefix):
                return answer(asked)
        if asked.path not in self.files:
            return Answer(404, b"there is no such file")
        if asked.method not in ("GET", "HEAD"):
            return Answer(405)
        condition = asked.headers.get("if-range") if self.if_range else None
        answer = _ranged(asked, self.files[asked.path], self.etags, ranges, condition)
        if answer.status == 206 and not self.etags_in_parts:
            for name in ("ETag", "Last-Modified"):
                answer.headers.pop(name, None)
        return answer

    def hold(self, connection: socket.socket) -> None:
        """Wait until the client hangs up or the server stops."""
        while not self._stopped.is_set():
            readable, _, _ = select.select([connection], [], [], 0.05)
            if readable:
                try:
                    if not connection.recv(1, socket.MSG_PEEK):
                        return
                except OSError:
                    return
                self._stopped.wait(0.05)

    def pause(self, seconds: float) -> None:
        self._stopped.wait(seconds)


def _ranged(
    asked: Asked, content: bytes, etags: str, ranges: bool, condition: str | None
) -> Answer:
    """Serve content by RFC 9110: If-None-Match, Range and If-Range."""
    digest = getattr(content, "digest", None) or hashlib.sha256(content).hexdigest()
    tag = {"strong": f'"{digest[:16]}"', "weak": f'W/"{digest[:16]}"'}.get(etags)
    modified = formatdate(1_700_000_000 + int(digest[:6], 16), usegmt=True)
    headers = {"Content-Type": "image/tiff"}
    if etags != "none":
        headers["Last-Modified"] = modified
    if ranges:
        headers["Accept-Ranges"] = "bytes"
    if tag:
        headers["ETag"] = tag
    if tag and asked.headers.get("if-none-match") == tag:
        return Answer(304, b"", headers)
    if etags != "none" and asked.headers.get("if-modified-since") == modified:
        return Answer(304, b"", headers)
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.range or "")
    if condition is not None and (condition.startswith("W/") or condition not in (tag, modified)):
        match = None
    if not ranges or not match or not any(match.groups()):
        return Answer(200, content, headers)
    first, last = match.groups()
    start = int(first) if first else max(0, len(content) - int(last))
    end = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= len(content) or end <= start:
        headers["Content-Range"] = f"bytes */{len(content)}"
        return Answer(416, b"", headers)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
    return Answer(206, content[start:end], headers)


class _Server(ThreadingHTTPServer):
    owner: FaultyServer
    daemon_threads = True
    request_queue_size = 128

    def get_request(self):
        connection, client = super().get_request()
        self.owner.connections += 1
        # Little room in the kernel: what the log says was sent has nearly all arrived.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, client

    def shutdown_request(self, request) -> None:
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
            request.close()  # a reset: no farewell before it
        else:
            super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:
        pass  # the client hung up: what was sent is in the log


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        owner = self.server.owner
        parts = urlsplit(self.path)
        asked = Asked(
            method=self.command,
            path=parts.path,
            query={key: values[-1] for key, values in parse_qs(parts.query).items()},
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length", 0))),
            client=self.client_address,
        )
        with owner._logged(asked) as fault:
            if fault.end == "reset" and fault.after == -1:
                self._reset()
                return
            if fault.status:
                answer = Answer(fault.status, responses[fault.status].encode(), fault.headers)
            else:
                answer = owner.right_answer(asked, fault.ranges)
            if owner.latency:
                owner.pause(owner.latency)
            asked.status = answer.status
            self._send(asked, answer, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _send(self, asked: Asked, answer: Answer, fault: Fault) -> None:
        body = fault.change(answer.body) if fault.change else answer.body
        part = body if fault.after is None or fault.status else body[: max(fault.after, 0)]
        # A fault that would come after the body's end comes before it.
        if fault.after is not None and len(part) == len(body):
            part = body[: len(body) // 2]
        promised = {"whole": len(body), "sent": len(part), "more": len(body) + 1000}[fault.promise]
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        if self.command == "HEAD":
            return
        self._write(asked, part, fault.rate or self.server.owner.rate)
        if len(part) == promised and fault.end == "close":
            return
        self.close_connection = True
        if fault.end == "reset":
            self._reset()
        elif fault.end == "stall":
            self.server.owner.hold(self.connection)

    def _write(self, asked: Asked, body: bytes, rate: float | None) -> None:
        piece = PIECE if rate is None else max(1, min(PIECE, int(rate / 20)))
        begin = time.monotonic()
        for start in range(0, len(body), piece):
            # Before it is: who has the last byte must find all of it in the log.
            asked.sent = min(start + piece, len(body))
            try:
                self.wfile.write(body[start : start + piece])
            except OSError:
                asked.sent = start
                raise
            if rate:
                self.server.owner.pause(begin + asked.sent / rate - time.monotonic())

    def _reset(self) -> None:
        """Close by RST, once the client has all that was written."""
        self.close_connection = True
        for _ in range(1000):
            if not struct.unpack("i", ioctl(self.connection.fileno(), TIOCOUTQ, b"\0" * 4))[0]:
                break
            time.sleep(0.001)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
