"""A real browser for tests: Chromium, driven over its DevTools protocol.

Only that tells what a page requested and reported, and a screenshot taken after a fixed time may
come before what is to be seen.
"""

import base64
import io
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from PIL import Image
from websockets.sync.client import ClientConnection, connect

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), "")
FLAGS = [
    *("--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-port=0"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-quic", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
]
SIZE = (640, 480)
PATIENCE = 30  # s


class Tab:
    """A browser tab, driven over the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.numbers = itertools.count()
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*SIZE)

    def resize(self, width: int, height: int) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **screen)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a method; events that come before it are kept."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, url: str) -> None:
        """Go to a page and wait for it, as a screenshot amid the change of pages is an error."""
        self.call("Page.navigate", url=url)
        eventually(lambda: self.evaluate("document.readyState"), "complete")

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    def colours(self, *points: tuple[int, int]) -> list[Any]:
        """The colours (red, green, blue) on the screen at points given in px from its centre."""
        image = self.screen()
        assert image.size == SIZE
        return [image.getpixel((SIZE[0] // 2 + x, SIZE[1] // 2 + y)) for x, y in points]

    def screen(self) -> Image.Image:
        png = base64.b64decode(self.call("Page.captureScreenshot")["data"])
        return Image.open(io.BytesIO(png)).convert("RGB")

    def point_at(self, x: int, y: int) -> None:
        where = {"x": SIZE[0] // 2 + x, "y": SIZE[1] // 2 + y}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **where)

    def happened(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] == method]

    def complaints(self) -> list[dict[str, Any]]:
        """Errors and warnings of page and browser, but those of the software renderer's speed."""
        entries = [params["entry"] for params in self.happened("Log.entryAdded")]
        logged = [entry for entry in entries if entry["source"] != "rendering"]
        said = self.happened("Runtime.consoleAPICalled")
        said = [params for params in said if params["type"] in ("error", "warning", "assert")]
        return logged + said + self.happened("Runtime.exceptionThrown")

    def hosts(self) -> set[str]:
        """The hosts that the page asked for anything over a network."""
        sent = self.happened("Network.requestWillBeSent")
        urls = [urlsplit(params["request"]["url"]) for params in sent]
        return {url.hostname or "" for url in urls if url.scheme not in ("data", "blob", "file")}


def eventually(look: Callable[[], Any], expected: Any) -> None:
    """Look until what is seen is as expected; then, or when patience ends, assert that it is."""
    deadline = time.monotonic() + PATIENCE
    while look() != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert look() == expected


@contextmanager
def running(profile: Path) -> Iterator[str]:
    """Start a browser with a new profile; yield the address of its DevTools."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            port = profile / "DevToolsActivePort"
            eventually(lambda: port.exists() and port.read_text().count("\n") == 1, True)
            yield f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        finally:
            process.terminate()


@contextmanager
def opened(browser: str) -> Iterator[Tab]:
    """Open a tab of a browser; at its end it must have complained of nothing."""
    target = requests.put(f"{browser}/new", timeout=PATIENCE).json()
    with connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
        tab = Tab(socket)
        yield tab
        assert tab.complaints() == []
        assert tab.hosts() <= {"127.0.0.1"}
        tab.call("Page.close")
