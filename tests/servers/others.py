"""Servers that others wrote, run on loopback: rustac's STAC API and moto's S3."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


def free_port() -> int:
    """A TCP port of loopback that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def rustac_serve(items: list[dict], folder: Path) -> Iterator[str]:
    """Serve items (each names its collection) by `rustac serve`; give the API's address."""
    path = folder / "rustac_items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    address = f"127.0.0.1:{free_port()}"
    command = [str(Path(sys.executable).with_name("rustac")), "serve", "--addr", address]
    server = subprocess.Popen(
        [*command, "--create-collections", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        _wait_for(f"http://{address}/", server)
        yield f"http://{address}"
    finally:
        server.kill()
        server.communicate()


def _wait_for(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + 20
    while True:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended: {server.communicate()[0].decode()}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3, which takes any keys; give its endpoint, for path-style addresses."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
