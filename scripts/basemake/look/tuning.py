"""`make tune`: what the page that changes a recipe asks for, answered on this machine alone.

The page gets digital numbers and the recipe's tables, and paints them itself, so that the picture
follows a slider. It is served from page/. A request is refused unless its address has the token and
it was made by that page: other pages in the same browser may send requests here, too.
"""

import hmac
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from werkzeug import Request, Response
from werkzeug.exceptions import RequestEntityTooLarge

from basemake.build.config import check_recipe, read_schema
from basemake.errors import MALFORMED, BasemakeError, LookError
from basemake.look.imagery import Imagery
from basemake.look.pictures import Picture
from basemake.look.places import LonLat, pictures_of
from basemake.look.recipes import known_recipes, save_recipe, used_recipe
from basemake.pixels.recipe import (
    MIXING,
    RGB_FROM_XYZ,
    TABLE_SIZE,
    XYZ_FROM_RGB,
    CompiledRecipe,
    apply_steps,
)

PAGE = Path(__file__).parent / "page"
FILES = {
    "": ("tune.html", "text/html"),
    "tune.css": ("tune.css", "text/css"),
    "tune.js": ("tune.js", "text/javascript"),
    "paint.js": ("paint.js", "text/javascript"),
}
HOSTS = ("127.0.0.1", "localhost")
LARGEST_REQUEST = 100_000  # bytes
MOST_PICTURES = 60
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
CLIPPED = (0.5, 99.5)  # percentiles that black and white points are taken from
MEASURED = 200_000  # pixels of a picture, at most
AROUND = 2  # pixels on each side of one that is measured


class Tuning:
    """The pictures and recipes of a build, and what the page asks of them.

    Its methods that take JSON raise BasemakeError, one sentence, or one of MALFORMED if the JSON is
    not of the form that the page sends.
    """

    def __init__(self, imagery: Imagery, at: list[LonLat]) -> None:
        """Read the pictures of all regions; `at` are places (lon, lat) to show besides."""
        self._imagery = imagery
        self._regions: list[str] = []  # of each picture
        self._pictures: list[Picture] = []
        self._adding = threading.Lock()
        for number, region in enumerate(imagery.build.regions):
            self._append(region, pictures_of(imagery, region, [] if number else at))

    def _append(self, region: str, pictures: list[Picture]) -> None:
        self._pictures += pictures
        self._regions += [region] * len(pictures)

    def state(self) -> dict[str, Any]:
        """Return what the page begins with: recipes, the steps there are, and the pictures."""
        config = self._imagery.build.config
        recipes = known_recipes(config)
        return {
            "title": f"{', '.join(self._imagery.build.regions)}, {config['quarter']}",
            "credit": self._imagery.build.attribution,
            "recipes": [
                {"description": "", **recipe, "name": name} for name, recipe in recipes.items()
            ],
            "used": used_recipe(config),
            "steps": steps_of_schema(),
            "readings": len(self._imagery.readings),
            "xyz_from_rgb": XYZ_FROM_RGB.ravel().tolist(),
            "rgb_from_xyz": RGB_FROM_XYZ.ravel().tolist(),
            "pictures": [self._described(number) for number in range(len(self._pictures))],
        }

    def _described(self, number: int) -> dict[str, Any]:
        picture = self._pictures[number]
        height, width = picture.dn.shape[:2]
        several = len(self._imagery.build.regions) > 1 and not picture.frame
        return {
            "title": f"{self._regions[number]}: {picture.title}" if several else picture.title,
            "place": picture.place,
            "pixel": picture.pixel,
            "width": width,
            "height": height,
            "map": picture.frame is not None,
        }

    def picture(self, number: str) -> bytes:
        """Return the DN of a picture as `Picture` has them, little-endian."""
        return self._pictures[int(number)].dn.astype("<u2").tobytes()

    def tables(self, asked: dict[str, Any]) -> bytes:
        """Return tables of the recipe with `steps`, float32 (tables, 3, TABLE_SIZE).

        They are those of `groups`: 0 for the steps before the first mixing step, of which there is
        a table for each reading, whose index is a DN's bits; 1 for those after it, and so on. The
        last group's hold levels 0 to 255, the others values 0 to 1.
        """
        steps = check_recipe({"steps": asked["steps"]}, "the recipe")["steps"]
        chains = [
            CompiledRecipe(steps, reading.dn, np.dtype(reading.dtype)).tables
            for reading in self._imagery.readings
        ]
        groups = [[_padded(chain[0]) for chain in chains], *([table] for table in chains[0][1:])]
        found = [table for number in asked["groups"] for table in groups[int(number)]]
        return b"".join(table.astype("<f4").tobytes() for table in found)

    def measure(self, asked: dict[str, Any]) -> dict[str, list[float]]:
        """Return `low`, `high` (percentiles) and `mean` of red, green and blue after `steps`.

        They are those of the picture numbered `picture`, or of the pixels around its column and
        row `at`.
        """
        steps = asked["steps"]
        if steps:
            steps = check_recipe({"steps": steps}, "the recipe")["steps"]
        picture = self._pictures[int(asked["picture"])]
        rgb = self._imagery.reflectance(picture).astype(np.float64)
        if asked.get("at") is not None:
            column, row = map(int, asked["at"])
            rgb = rgb[
                :,
                max(0, row - AROUND) : max(0, row + AROUND + 1),
                max(0, column - AROUND) : max(0, column + AROUND + 1),
            ]
        pixels = rgb.reshape(3, -1)
        pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
        if not pixels.size:
            raise LookError("there are no pixels here; choose a place inside of the picture.")
        values = apply_steps(steps, pixels[:, :: max(1, pixels.shape[1] // MEASURED)])
        low, high = np.percentile(values, CLIPPED, axis=1)
        return {"low": low.tolist(), "high": high.tolist(), "mean": values.mean(axis=1).tolist()}

    def add_place(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Add the crop around `place`, lon and lat, or around `at`, a point of a map `picture`."""
        number = int(asked.get("picture", 0))
        if "place" in asked:
            lon, lat = map(float, asked["place"])
        else:
            lon, lat = self._pictures[number].lonlat(*map(float, asked["at"]))
        crop = self._imagery.crop("place", lon, lat)
        with self._adding:
            if len(self._pictures) >= MOST_PICTURES:
                raise LookError(f"there are {MOST_PICTURES} pictures already; start anew.")
            self._append(self._regions[number], [crop])
            return self._described(len(self._pictures) - 1)

    def save(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Save the recipe with `steps` and `description` under `name`; return what to do next."""
        name = asked["name"]
        path = save_recipe(name, asked["description"], asked["steps"])
        if used_recipe(self._imagery.build.config) == name:
            then = "The next build uses it."
        else:
            then = f"To build with it, set recipe: {name} in the config."
        return {"said": f"Saved {path}. {then}", "recipes": self.state()["recipes"]}


def steps_of_schema() -> dict[str, dict[str, Any]]:
    """Return the steps that config/recipe.schema.yaml allows by name, as the page shows them."""
    items = read_schema("recipe")["properties"]["steps"]["items"]
    found: dict[str, dict[str, Any]] = {}
    for branch in items["allOf"]:
        then = branch["then"]
        name = branch["if"]["properties"]["step"]["const"]
        numbers = {key: p for key, p in then["properties"].items() if key not in ("step", "bands")}
        found[name] = {
            "description": then["description"],
            "bands": "bands" in then["properties"],
            "mixes": name in MIXING,
            "parameters": numbers,
        }
    return {name: found[name] for name in items["properties"]["step"]["enum"]}


def _padded(table: np.ndarray) -> np.ndarray:
    """Return a table of 256 or TABLE_SIZE values as one of TABLE_SIZE."""
    return np.pad(table, ((0, 0), (0, TABLE_SIZE - table.shape[1])))


def application(tuning: Tuning, token: str) -> Callable:
    """Return the WSGI application that serves the page, below /{token}/, to this machine."""
    answers: dict[str, Callable[[dict[str, Any]], Any]] = {
        "tables": tuning.tables,
        "measure": tuning.measure,
        "place": tuning.add_place,
        "save": tuning.save,
    }

    def answer(request: Request, name: str) -> Response:
        if request.method == "POST" and name in answers:
            found = answers[name](_json_of(request))
        elif request.method != "GET":
            return _said("Only the page's own requests are answered.", 405)
        elif name in FILES:
            file, kind = FILES[name]
            return Response((PAGE / file).read_bytes(), mimetype=kind)
        elif name == "state":
            found = tuning.state()
        elif name.startswith("pictures/"):
            found = tuning.picture(name.removeprefix("pictures/"))
        else:
            return _said("There is no such file.", 404)
        binary = isinstance(found, bytes)
        kind = "application/octet-stream" if binary else "application/json"
        return Response(found if binary else json.dumps(found), mimetype=kind)

    @Request.application
    def serve(request: Request) -> Response:
        try:
            if refusal := _refusal(request, token):
                response = _said(refusal, 403)
            else:
                response = answer(request, request.path[len(token) + 2 :])
        except BasemakeError as error:
            response = _said(str(error), 422)
        except RequestEntityTooLarge:
            response = _said(f"A request has at most {LARGEST_REQUEST} bytes.", 413)
        except MALFORMED:
            response = _said("The request is not one of the page's.", 400)
        response.headers.update(HEADERS)
        return response

    return serve


def _refusal(request: Request, token: str) -> str | None:
    """Return why a request is refused; None if it is not."""
    # By its name another site's address can lead here (DNS rebinding): Host has that name then.
    if urlsplit(f"//{request.host}").hostname not in HOSTS:
        return f"The host is {request.host!r}; allowed: {', '.join(HOSTS)}."
    given = request.path.split("/")[1]
    if not hmac.compare_digest(given.encode(), token.encode()):
        return "The address has a wrong token; open the one that make tune printed."
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if origin not in (None, f"http://{request.host}") or site not in ("same-origin", "none"):
        return "The request comes from another page."
    return None


def _json_of(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request; ValueError or TypeError if it has none."""
    request.max_content_length = LARGEST_REQUEST
    if request.mimetype != "application/json":
        raise ValueError("not JSON")
    document = json.loads(request.get_data())
    if not isinstance(document, dict):
        raise TypeError("not an object")
    return document


def _said(sentence: str, status: int) -> Response:
    return Response(sentence, status, mimetype="text/plain")
