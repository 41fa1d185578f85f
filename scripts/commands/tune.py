"""Change a recipe and see the map change: a page on this machine, until Ctrl-C.

It shows the imagery of a draft, or of the build, as far as it is here, and saves recipes to
config/recipes/ of the working directory. Places are added by --at LON,LAT; other options are
snakemake's.
"""

import argparse
import secrets
import socket
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from werkzeug.serving import make_server

from basemake.engine.open_build import as_command, open_build
from basemake.errors import LookError
from basemake.look.imagery import Imagery
from basemake.look.tuning import Tuning, application
from basemake.pixels.raster import set_up_libraries
from looks import lonlat
from serve import HOST, QuietHandler


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone; LookError if the port is not free."""
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError):
        raise LookError(
            f"port {port} is taken or not allowed: give another one with --port."
        ) from None


def main() -> None:
    """Print the address of the page and serve it."""
    parser = argparse.ArgumentParser(
        "tune",
        description="Change a recipe and see the map change. Other options are snakemake's.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument(
        "--at", action="append", default=[], metavar="LON,LAT", help="a place to show besides"
    )
    own, rest = parser.parse_known_args()
    with suppress(KeyboardInterrupt), as_command("tune"):
        at = [lonlat(text) for text in own.at]
        build = open_build(rest)
        set_up_libraries(build.config["gdal_cache_mb"])
        token = secrets.token_urlsafe(16)
        app = application(Tuning(Imagery(build), at), token)
        with listen(own.port) as listener:
            port, number = listener.getsockname()[1], listener.fileno()
            print(f"http://{HOST}:{port}/{token}/")
            print("Ctrl-C stops.", flush=True)
            make_server(
                HOST, port, app, threaded=True, request_handler=QuietHandler, fd=number
            ).serve_forever()


if __name__ == "__main__":
    main()
