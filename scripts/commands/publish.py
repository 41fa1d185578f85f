"""Publish finished maps: to a bucket, of which unchanged bytes are copied there, or to a folder.

A map is what `snakemake` made last; the archive of each region of the config and what opens it
are published. Exit status: 0 if all are, 1 if not, 75 if a run is using the directory.
"""

import argparse
import json
import logging
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from basemake.build.bucket import brought
from basemake.build.paths import RESULTS
from basemake.build.records import read_record, sha256_of
from basemake.build.run_lock import alone
from basemake.engine.open_build import BUSY, as_command, open_build
from basemake.errors import BusyError, PublishError
from basemake.publish.places import Place, place
from basemake.publish.publication import Published, publish_archive, publish_folder
from basemake.readers.shown import Shown

EXAMPLE = 'make publish ARGS="--to s3://my-bucket/maps --directory ~/maps/alps"'


def files_of(region: str) -> list[Path]:
    """Return the paths of a region's archive, page and style."""
    names = (f"pyramid/{region}.pmtiles", f"preview/{region}.html", f"web/{region}/style.json")
    return [RESULTS / name for name in names]


def publish(region: str, where: Place, options: argparse.Namespace) -> Published:
    """Publish the map of a region that the current directory holds.

    Raises PublishError if it is not there, or not as its records tell.
    """
    archive, page, made_style = files_of(region)
    for made in (archive, page, made_style):
        record = read_record(made)
        if record is None or not made.exists():
            raise PublishError(f"{made} is not there yet: run snakemake first.")
        if sha256_of(made) != record.sha256:
            raise PublishError(f"{made} is damaged: delete it, and run snakemake to make it again.")
    url = f"{options.url.rstrip('/')}/" if options.url else ""
    said = json.loads(made_style.read_text())
    ground = said["layers"][0]["paint"]["background-color"]
    showing = partial(Shown.of, archive, title=said["name"], ground=ground)
    if options.tiles:
        return publish_folder(region, archive.with_suffix(""), showing, where, url)
    old = options.remove_old
    return publish_archive(region, archive, page, showing, where, url=url, remove_old=old)


def main() -> None:
    """Publish the maps of a working directory."""
    parser = argparse.ArgumentParser(
        description="Publish finished maps. Other options are snakemake's.", allow_abbrev=False
    )
    parser.add_argument("--to", help="s3://bucket/maps, gs://bucket/maps, or a folder")
    parser.add_argument("--endpoint-url", help="of an S3 service other than Amazon's")
    parser.add_argument(
        "--url", default="", help="where browsers reach that place, for TileJSON and style"
    )
    parser.add_argument(
        "--tiles", action="store_true", help="web tiles, one object each, instead of the archive"
    )
    parser.add_argument(
        "--remove-old", action="store_true", help="delete archives older than the last but one"
    )
    options, arguments = parser.parse_known_args()
    logging.basicConfig(format="basemake publish: %(message)s")
    with as_command("basemake publish"):
        if not options.to:
            raise PublishError(f"--to, the place, is missing; such as: {EXAMPLE}")
        if options.url and urlsplit(options.url).scheme not in ("http", "https"):
            raise PublishError(
                f"--url is {options.url!r}; allowed: an address such as https://maps.example.org."
            )
        where = place(options.to, options.endpoint_url)
        build = open_build(arguments)
        where.check(Path.cwd())
        if build.bucket and options.tiles:
            raise PublishError("--tiles: a bucket keeps no folders of web tiles; leave it out.")
        try:
            with alone():
                for region in build.regions:
                    with brought(build.bucket, files_of(region)):
                        _say(region, publish(region, where, options), where)
        except BusyError as error:
            print(f"basemake publish: {error}", file=sys.stderr)
            sys.exit(BUSY)


def _say(region: str, done: Published, where: Place) -> None:
    """Print what changed, and nothing if nothing did, so that cron sends no mail."""
    gone = f", {done.deleted} old objects deleted" if done.deleted else ""
    if done.sent or gone:
        sent = f"{done.sent:,} bytes sent{gone}"
        print(f"basemake publish: {region}: {where}/{done.name}: {sent}", flush=True)


if __name__ == "__main__":
    main()
