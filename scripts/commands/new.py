"""Write a working directory for a map of one's own: a commented config, and a copy of the polygon.

The config is the shipped one, which is the demo's, with what is given here in place of that.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from basemake.build.config import CONFIG_FOLDER, check, read_source
from basemake.build.region import path_and_feature, read_regions
from basemake.engine.open_build import as_command
from basemake.errors import ConfigError

EXAMPLE = "make new NAME=alps POLYGON=alps.geojson QUARTER=2025Q3"
NUMBER = r"\s*-?([0-9]+\.?[0-9]*|\.[0-9]+)\s*"


def new(directory: Path, name: str, area: str, quarter: str, source: str) -> list[str]:
    """Write the working directory of a map, and return the paths of its files there.

    `area` is what config's `regions` takes: a path, one with #property=value, or four numbers with
    commas. Raises ConfigError or RegionError if something of it is not allowed, or there is a
    config already; nothing is written then.
    """
    place = directory / "config/config.yaml"
    if place.exists():
        raise ConfigError(f"{place} is there already; give another NAME, or --directory in ARGS.")
    region: Any = area
    files = []
    if re.fullmatch(",".join([NUMBER] * 4), area):
        region = [float(number) for number in area.split(",")]
    read_regions({name: region})
    if isinstance(region, str):
        path, feature = path_and_feature(area)
        files.append(path.expanduser())
        region = path.name + (f"#{'='.join(feature)}" if feature else "")
    if source.endswith((".yaml", ".yml")):
        source = str(Path(source).expanduser().absolute())
    given = {"source": source, "quarter": quarter, "regions": {name: region}}
    read_source(check(given, "config", "the config")["source"])
    place.parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not (directory / file.name).exists() or not file.samefile(directory / file.name):
            shutil.copyfile(file, directory / file.name)
    place.write_text(config_of(name, region, quarter, source))
    return [str(place.relative_to(directory)), *(file.name for file in files)]


def config_of(name: str, region: Any, quarter: str, source: str) -> str:
    """Return the text of the shipped config, with these values and without what is the demo's."""
    lines = {
        r"# This is the demo; .*\n": "",
        r"source: .*\n": _line("source", source),
        r"quarter: .*\n": _line("quarter", quarter),
        r"  demo: .*\n": "  " + _line(name, region),
        r"  metatile_zoom: .*\n": "  metatile_zoom: auto\n",
    }
    text = (CONFIG_FOLDER / "config.yaml").read_text()
    for pattern, line in lines.items():
        (old,) = re.findall(f"^{pattern}", text, re.MULTILINE)
        text = text.replace(old, line)
    return text


def _line(key: str, value: Any) -> str:
    """Return a line of YAML with a key, in quotes where it reads as no text, such as `no`."""
    pair = {key: value}
    written = yaml.safe_dump(pair, default_flow_style=True, width=10_000, allow_unicode=True)
    return written.strip()[1:-1] + "\n"  # without the braces


def main() -> None:
    """Write a working directory, and print what to do with it."""
    parser = argparse.ArgumentParser("make new", allow_abbrev=False, epilog=f"Example: {EXAMPLE}")
    for what in ("name", "polygon", "quarter"):
        parser.add_argument(what)
    parser.add_argument("--source", default="cdse", help="(%(default)s)")
    parser.add_argument("--directory", type=Path, help="(~/maps/NAME)")
    given = parser.parse_args()
    with as_command("new"):
        for what in ("name", "polygon", "quarter"):
            if not getattr(given, what):
                raise ConfigError(f"{what.upper()} is missing; such as: {EXAMPLE}")
        directory = given.directory or Path("~/maps") / given.name
        home = directory.expanduser().absolute()
        files = new(home, given.name, given.polygon, given.quarter, given.source)
    print(f"{home} is ready, with {' and '.join(files)}. To go on:\n")
    print("  . .venv/bin/activate")
    print(f"  snakemake --directory {home} manifest")
    print(f'  make plan ARGS="--directory {home}"')
    print(f"  snakemake --directory {home}")


if __name__ == "__main__":
    main()
