"""Serve a results folder to browsers on this machine, as previews read archives by HTTP ranges.

Werkzeug answers range requests (RFC 9110) and marks each file with an ETag, so that a browser does
not mix ranges of a rebuilt archive with those of the old one in its cache.
"""

import argparse
import socket
import sys
from pathlib import Path
from urllib.parse import quote

from werkzeug import Request, Response
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.utils import redirect, send_from_directory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from basemake.build.paths import SHOWN

HOST = "127.0.0.1"


class QuietHandler(WSGIRequestHandler):
    """A request handler that reports errors only: a map asks for a hundred ranges a minute."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Print nothing for a request that was answered."""


def pages_in(directory: Path) -> list[Path]:
    """Return the pages of maps in a results folder, or in one to which maps were published."""
    return sorted(directory.glob("preview/*.html")) or sorted(directory.glob("*.html"))


def serve(directory: Path, listener: socket.socket) -> None:
    """Answer requests for files below `directory` on a listening socket, until Ctrl-C."""
    host, port = listener.getsockname()
    pages = pages_in(directory)

    @Request.application
    def application(request: Request) -> Response:
        if request.path == "/" and len(pages) == 1:
            return redirect(quote(pages[0].relative_to(directory).as_posix()))
        return send_from_directory(directory, request.path.lstrip("/"), request.environ)

    make_server(
        host,
        port,
        application,
        threaded=True,
        request_handler=QuietHandler,
        fd=listener.fileno(),
    ).serve_forever()


def main() -> None:
    """Print the address of each preview page in a folder and serve it; exit 1 if there is none."""
    parser = argparse.ArgumentParser(description="Serve the maps of a results folder.")
    parser.add_argument("directory", type=Path, help="folder that holds preview/ and pyramid/")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    if not pages_in(directory) and pages_in(directory / "results"):
        directory /= "results"
    if (directory / SHOWN.name).exists():
        sys.exit(
            f"{directory} only shows what is in a bucket: publish it to a folder, and serve that."
        )
    pages = pages_in(directory)
    if not pages:
        sys.exit(f"No preview in {directory}: run `make demo` or `snakemake --cores 4` first.")
    try:
        listener = socket.create_server((HOST, arguments.port))
    except (OSError, OverflowError):
        sys.exit(f"Port {arguments.port} is taken or not allowed: give another one with --port.")
    with listener:
        for page in pages:
            path = quote(page.relative_to(directory).as_posix())
            print(f"http://{HOST}:{listener.getsockname()[1]}/{path}")
        print("Ctrl-C stops.", flush=True)
        serve(directory, listener)


if __name__ == "__main__":
    main()
