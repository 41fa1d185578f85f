"""Draw the region in every recipe: results/looks/{region}.png, and .html with full-size crops.

The imagery is that of a draft, or of the build, as far as it is on this machine. Places are chosen
by their colours; others are added by --at LON,LAT. Other options are snakemake's.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

import shapely

from basemake.build.paths import RESULTS
from basemake.engine.open_build import Build, as_command, open_build
from basemake.errors import LookError
from basemake.look.figures import figures_of
from basemake.look.imagery import NEAR, Imagery
from basemake.look.places import LonLat, pictures_of
from basemake.look.recipes import known_recipes, used_recipe
from basemake.look.sheet import Look, Sheet, draw_sheet, write_page
from basemake.pixels.raster import set_up_libraries

FOLDER = RESULTS / "looks"


def looks(build: Build, at: list[LonLat]) -> None:
    """Write the sheets of all regions of a build; `at` are further places (lon, lat).

    Raises LookError if there is no imagery or a place is in no region, and what reading recipes
    raises.
    """
    imagery, recipes = Imagery(build), known_recipes(build.config)
    here = {place: _regions_at(build, place) for place in at}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for region in build.regions:
        own = [place for place, regions in here.items() if region in regions]
        sheet = _sheet(imagery, region, recipes, own)
        draw_sheet(FOLDER / f"{region}.png", sheet)
        write_page(FOLDER / f"{region}.html", sheet)
        print(f"{region} in {len(recipes)} recipes: {FOLDER.absolute() / region}.png, and .html")


def _regions_at(build: Build, place: LonLat) -> list[str]:
    """Return the names of the regions at a place; LookError if there is none."""
    point = shapely.Point(place)
    found = [name for name, area in build.regions.items() if shapely.dwithin(area, point, NEAR)]
    if not found:
        west, south, east, north = shapely.total_bounds([*build.regions.values()])
        raise LookError(
            f"--at is {place[0]:g},{place[1]:g}, which is in no region; allowed: longitude,latitude"
            f" inside of one (they reach from {west:g},{south:g} to {east:g},{north:g})."
        )
    return found


def _sheet(imagery: Imagery, region: str, recipes: dict[str, dict], at: list[LonLat]) -> Sheet:
    config, source = imagery.build.config, imagery.build.source
    pictures = pictures_of(imagery, region, at)
    found = []
    for name, recipe in recipes.items():
        images = [imagery.colour(picture, recipe["steps"]) for picture in pictures]
        used = name == used_recipe(config)
        figures = [figures_of(image) for image in images]
        found.append(Look(name, recipe.get("description", ""), used, images, figures))
    return Sheet(
        f"{region}, {config['quarter']}",
        f"{len(found)} recipes. Imagery: {source.title}, {imagery.finest:.0f} m a pixel.",
        imagery.build.attribution,
        pictures,
        found,
    )


def lonlat(text: str) -> LonLat:
    """Return longitude and latitude of a text such as 8.2,46.5; LookError if it is none."""
    try:
        lon, lat = map(float, text.split(","))
    except ValueError:
        lon = lat = math.nan
    if not (abs(lon) <= 180 and abs(lat) <= 90):
        raise LookError(
            f"--at is {text!r}; allowed: longitude,latitude in degrees, such as --at 8.2,46.5."
        )
    return lon, lat


def main() -> None:
    """Draw the sheets of a working directory."""
    parser = argparse.ArgumentParser(
        "looks",
        description="Draw the region in every recipe. Other options are snakemake's.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="LON,LAT",
        help="a place to show besides (--at=-3.2,55.9 if it begins with a minus)",
    )
    own, rest = parser.parse_known_args()
    with as_command("looks"):
        at = [lonlat(text) for text in own.at]
        build = open_build(rest)
        set_up_libraries(build.config["gdal_cache_mb"])
        looks(build, at)


if __name__ == "__main__":
    main()
