"""Serve maps to browsers, as pages read archives by HTTP ranges.

Werkzeug answers range requests (RFC 9110) and marks each file with an ETag, so that a browser does
not mix ranges of a rebuilt archive with those of the old one in its cache.
"""

import argparse
import html
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import quote, unquote

from werkzeug import Request, Response
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.utils import redirect, send_from_directory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from basemake.build.paths import SHOWN
from basemake.system.interrupts import on_interrupt

HOST = "127.0.0.1"
# Where pages are: in results, where maps were published to, and in a folder of working directories.
PAGES = ("preview/*.html", "*.html", "*/results/preview/*.html")
INDEX = "index.html"
HEAD = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Maps</title><link rel="icon" href="data:,">
<style>body { font: 16px/1.6 system-ui, sans-serif; margin: 2em; }</style>
"""
# For programs on other sites (CORS): they may ask for ranges, and see what tells of these.
SHARED = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Range, If-Match, If-None-Match, If-Range",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range, ETag",
}


class QuietHandler(WSGIRequestHandler):
    """A request handler that reports errors only: a map asks for a hundred ranges a minute."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Print nothing for a request that was answered."""


def pages_in(directory: Path) -> list[str]:
    """Return the addresses of the pages of maps below a folder, relative to it.

    Pages of other libraries, such as alps.leaflet.html, are left out.
    """
    for pattern in PAGES:
        found = sorted(directory.glob(pattern))
        paths = [path for path in found if path.name != INDEX and "." not in path.stem]
        if paths:
            return [quote(path.relative_to(directory).as_posix()) for path in paths]
    return []


def at_root(directory: Path) -> Response:
    """Return the answer for /: the index of results, the only map, or a list of links to maps."""
    if (directory / "preview" / INDEX).exists():
        return redirect(f"preview/{INDEX}")
    pages = pages_in(directory)
    if len(pages) == 1:
        return redirect(pages[0])
    links = "".join(f'<p><a href="{page}">{html.escape(unquote(page))}</a>' for page in pages)
    return Response(f"{HEAD}<h1>Maps</h1>{links}", mimetype="text/html")


def serve(directory: Path, host: str, listener: socket.socket, shared: bool) -> None:
    """Answer requests for files below `directory` on a listening socket, until Ctrl-C.

    With `shared` pages of other sites may read the answers.
    """

    @Request.application
    def application(request: Request) -> Response:
        if shared and request.method == "OPTIONS":
            answer = Response(status=204)
        elif request.method not in ("GET", "HEAD"):
            answer = Response(status=405, headers={"Allow": "GET, HEAD"})
        elif request.path == "/":
            answer = at_root(directory)
        else:
            try:
                answer = send_from_directory(directory, request.path.lstrip("/"), request.environ)
            except HTTPException as error:
                answer = Response.force_type(error.get_response(request.environ))
        if shared:
            answer.headers.update(SHARED)
        return answer

    make_server(
        host,
        listener.getsockname()[1],
        application,
        threaded=True,
        request_handler=QuietHandler,
        fd=listener.fileno(),
    ).serve_forever()


def main() -> None:
    """Print the address of each page in a folder and serve it; exit 1 if there is none."""
    on_interrupt(signal.default_int_handler)  # at which the server ends
    parser = argparse.ArgumentParser(description="Serve the maps of a folder.")
    parser.add_argument("directory", type=Path, help="results, or a folder of published maps")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--host", default=HOST, help="0.0.0.0: for other machines, too (%(default)s)"
    )
    parser.add_argument("--cors", action="store_true", help="for pages of other sites, too")
    arguments = parser.parse_args()
    directory, host = arguments.directory.resolve(), arguments.host
    if not pages_in(directory) and pages_in(directory / "results"):
        directory /= "results"
    if (directory / SHOWN.name).exists():
        sys.exit(
            f"{directory} only shows what is in a bucket: publish it to a folder, and serve that."
        )
    pages = pages_in(directory)
    if not pages:
        sys.exit(
            f"No map in {directory}: name the results folder of one (RESULTS= of make), or run"
            " `make demo` or `snakemake --cores 4` first."
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, arguments.port), family=family)
    except (OSError, OverflowError) as error:
        sys.exit(
            f"{host}, port {arguments.port}, is taken or not allowed ({error}): give another one"
            " by --host and --port (HOST= and PORT= of make)."
        )
    with listener:
        place = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        for page in pages:
            print(f"{place}/{page}")
        print("Ctrl-C stops.", flush=True)
        serve(directory, host, listener, arguments.cors)


if __name__ == "__main__":
    main()
