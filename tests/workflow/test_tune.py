"""The page of `make tune` in a real browser: what it shows is what the build makes."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from chromium import Tab, eventually, opened
from osgeo import gdal
from PIL import ImageColor

from basemake.build.bands import band_path
from basemake.build.config import read_recipe
from basemake.pixels.dn import DnReading
from enhance_tile import Enhancement, enhance_tile
from lookable import BANDS, NODATA, SIDE, lay_out, place_of, random_dn

TUNE = Path(__file__).parents[2] / "scripts/commands/tune.py"
GROUND = ImageColor.getrgb("#3b3d40")
COVERS = ("#swipe", "#before", "#after", "#view")  # what lies over the picture
# Every step that there is, and both that mix bands, one after the other and with a table between.
EVERY = [
    {"step": "white_balance", "red": 1.1, "green": 1.0, "blue": 0.9},
    {"step": "haze", "amount": 0.01, "bands": ["green", "blue"]},
    {"step": "highlight_compression", "maximum": 2.0, "midpoint": 0.2},
    {"step": "saturation", "factor": 1.4},
    {"step": "lch_saturation", "factor": 0.9},
    {"step": "offset_gamma", "gamma": 1.2, "offset": 0.02},
    {"step": "gamma", "gamma": 1.5, "bands": ["red"]},
    {"step": "lch_saturation", "factor": 1.3},
    {"step": "levels", "black": 0.02, "white": 0.9},
    {"step": "sigmoidal", "contrast": 3, "bias": 0.5},
    {"step": "power", "exponent": 0.9},
    {"step": "gain", "factor": 1.05},
    {"step": "srgb", "bands": ["blue"]},
]
RECIPES = ["l2a-optimized", "natural", "quicklook", "simple-gain", "every"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory, write_geotiff) -> Path:
    """A working directory with two tiles whose DN read differently, and a recipe of its own."""
    folder = tmp_path_factory.mktemp("here")
    lay_out(folder, write_geotiff, random_dn("int16", 1), random_dn("uint16", 2))
    (folder / "config/recipes").mkdir()
    (folder / "config/recipes/every.yaml").write_text(yaml.safe_dump({"steps": EVERY}))
    return folder


@pytest.fixture(scope="module")
def address(directory: Path) -> Iterator[str]:
    """The address that `make tune` prints, with the middles of both tiles as places."""
    places = [f"--at={lon},{lat}" for lon, lat in map(place_of, (0, 1))]
    command = [sys.executable, str(TUNE), "--directory", str(directory), *places]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.send_signal(signal.SIGINT)
            _, errors = server.communicate()
    assert (server.returncode, errors) == (0, "")


class Page:
    """The page in a tab, as a person uses it."""

    def __init__(self, tab: Tab, address: str) -> None:
        self.tab = tab
        tab.resize(1440, 900)
        tab.open(address)
        eventually(lambda: tab.evaluate("'ready' in document.body.dataset"), True)
        # The crops of both tiles are the last pictures at first.
        self.first = tab.evaluate("document.querySelectorAll('#strip li').length") - 2

    def do(self, script: str) -> Any:
        return self.tab.evaluate(script)

    def choose(self, field: str, value: Any, event: str = "change") -> None:
        place = f"document.querySelector('{field}')"
        self.do(f"{place}.value = '{value}'; {place}.dispatchEvent(new Event('{event}'))")

    def click(self, button: str) -> None:
        self.do(f"document.querySelector('{button}').click()")

    def text(self, place: str) -> str:
        return self.do(f"document.querySelector('{place}').textContent")

    def names(self) -> list[str]:
        found = "[...document.querySelectorAll('#steps h2')].map(name => name.textContent)"
        return self.do(found)

    def show_crop(self, number: int) -> None:
        """Show the crop of a tile, pixel by pixel, and nothing over it."""
        self.do(f"document.querySelectorAll('#strip li button')[{self.first + number}].click()")
        self.click("#actual")
        for cover in COVERS:
            self.do(f"document.querySelector('{cover}').style.visibility = 'hidden'")

    def touch(self, event: str, across: float, down: float) -> None:
        """Send the picture an event of the mouse, at shares of its width and height."""
        box = self.do("document.querySelector('#picture').getBoundingClientRect().toJSON()")
        x, y = box["left"] + across * box["width"], box["top"] + down * box["height"]
        where = f"{{clientX: {x}, clientY: {y}}}"
        self.do(
            "document.querySelector('#picture')"
            f".dispatchEvent(new PointerEvent('{event}', {where}))"
        )

    def swipe(self, key: str) -> None:
        self.do(
            "document.querySelector('#swipe').dispatchEvent("
            f"new KeyboardEvent('keydown', {{key: '{key}'}}))"
        )

    def shown(self) -> np.ndarray:
        """The picture on the screen, (SIDE, SIDE, 3)."""
        size = [
            self.do(f"document.querySelector('#picture').client{s}") for s in ("Width", "Height")
        ]
        left, top = ((side - SIDE + 1) // 2 for side in size)
        return np.asarray(self.tab.screen())[top : top + SIDE, left : left + SIDE].astype(int)


@pytest.fixture(scope="module")
def page(browser: str, address: str) -> Iterator[Page]:
    """One page for all tests, as a person would use it."""
    with opened(browser) as tab:
        yield Page(tab, address)


@pytest.fixture(scope="module")
def built(directory: Path, tmp_path_factory):
    """A function that returns the enhanced tile of a number by a recipe, (SIDE, SIDE, 4)."""
    folder = tmp_path_factory.mktemp("built")

    def build(number: int, steps: list[dict]) -> np.ndarray:
        bands = [directory / band_path(f"33TWM_{number}_0", key) for key in BANDS.values()]
        enhancement = Enhancement(32633, steps, DnReading(0.0001, 0.0, NODATA), "zstd")
        enhance_tile(bands, folder / "tile.tif", enhancement, metadata={}, threads=2)
        return np.moveaxis(gdal.Open(str(folder / "tile.tif")).ReadAsArray(), 0, -1).astype(int)

    return build


def steps_of(name: str) -> list[dict]:
    return EVERY if name == "every" else read_recipe(name)["steps"]


def difference(shown: np.ndarray, rgba: np.ndarray) -> np.ndarray:
    """By how many levels a picture on the screen differs from a tile, over the page's ground."""
    expected = np.where(rgba[..., 3:] > 0, rgba[..., :3], GROUND)
    return np.abs(shown - expected)


@pytest.mark.parametrize(
    ("tile", "names"), [(0, RECIPES), (1, ["natural", "every"])], ids=["int16", "uint16"]
)
def test_the_picture_is_the_built_tile_to_one_level(
    page: Page, built, tile: int, names: list[str]
) -> None:
    """Of all pixels, which are random: dark, of land, bright and of all digital numbers."""
    page.show_crop(tile)
    page.swipe("Home")  # all of it after
    for name in names:
        page.choose("#recipes", name)
        expected = built(tile, steps_of(name))
        eventually(lambda rgba=expected: difference(page.shown(), rgba).max() <= 1, True)
        off = difference(page.shown(), expected)
        assert (off > 0).mean() < 0.005, name
        assert np.ptp(expected[..., :3]) == 255


def test_before_is_left_of_the_swipe_and_after_right(page: Page, built) -> None:
    page.show_crop(0)
    page.swipe("Home")
    for _ in range(25):
        page.swipe("ArrowRight")  # by a fiftieth
    page.choose("#before select", "natural")
    page.choose("#recipes", "quicklook")
    natural, quicklook = (built(0, steps_of(name)) for name in ("natural", "quicklook"))
    half = SIDE // 2
    both = np.concatenate([natural[:, :half], quicklook[:, half:]], axis=1)
    eventually(lambda: difference(page.shown(), both).max() <= 1, True)
    page.swipe("End")
    eventually(lambda: difference(page.shown(), natural).max() <= 1, True)


def test_sliders_numbers_bands_and_steps_change_the_picture(page: Page, built) -> None:
    page.show_crop(0)
    page.swipe("Home")
    page.choose("#recipes", "simple-gain")
    steps = [{"step": "gain", "factor": 2.5}]

    def follows() -> None:
        rgba = built(0, steps)
        eventually(lambda: difference(page.shown(), rgba).max() <= 1, True)

    follows()
    page.choose("#steps input[type=range]", 1.5, "input")
    steps[0]["factor"] = float(page.do("document.querySelector('#steps input[type=number]').value"))
    assert steps[0]["factor"] == pytest.approx(1.5, abs=0.01)
    follows()
    page.choose("#steps input[type=number]", 3.25, "input")
    page.choose("#steps input[type=number]", 3.25)
    steps[0]["factor"] = 3.25
    follows()
    page.click("#steps [data-band=green]")
    steps[0]["bands"] = ["red", "blue"]
    follows()
    page.choose("#add", "power")
    page.choose("#steps li:last-child input[type=number]", 0.5, "input")
    page.choose("#steps li:last-child input[type=number]", 0.5)
    steps.append({"step": "power", "exponent": 0.5})
    follows()
    page.click("#steps li:last-child [data-do=up]")
    steps.reverse()
    assert page.names() == ["Power", "Gain"]
    follows()
    page.click("#steps [data-do=remove]")
    del steps[0]
    follows()
    page.click("#undo")
    assert page.names() == ["Power", "Gain"]


def test_the_histogram_counts_what_is_clipped(page: Page, built) -> None:
    page.show_crop(0)
    page.choose("#recipes", "simple-gain")
    rgba = built(0, steps_of("simple-gain"))
    valid = rgba[rgba[..., 3] > 0][:, :3]
    shares = [100 * (valid == level).any(axis=1).mean() for level in (0, 255)]
    figures = "document.querySelector('#figures figcaption').textContent"
    said = "clipped: shadows {:.1f} %highlights {:.1f} %".format(*shares)
    eventually(lambda: page.do(figures), said)


def test_numbers_are_taken_from_the_picture(page: Page) -> None:
    page.show_crop(0)
    page.choose("#recipes", "simple-gain")
    page.choose("#add", "levels")
    page.click("#steps li:last-child .tools > button")
    dn = random_dn("int16", 1)
    values = 2.5e-4 * dn[:, (dn != NODATA).all(axis=0)]
    low, high = np.percentile(values, [0.5, 99.5], axis=1)
    found = "[...document.querySelectorAll('#steps li:last-child input[type=number]')]"
    expected = [low.min(), high.max()]
    eventually(
        lambda: page.do(f"{found}.map(field => +field.value)") == pytest.approx(expected, rel=0.02),
        True,
    )


def test_places_are_added_on_the_map_and_by_degrees(page: Page) -> None:
    pictures = "document.querySelectorAll('#strip li').length"
    before = page.do(pictures)
    page.click("#strip li button")
    page.click("#fit")
    page.touch("dblclick", 0.4, 0.5)
    eventually(lambda: page.do(pictures), before + 1)
    page.do("document.querySelector('#strip input').value = '8'")
    page.click("#strip form button")
    eventually(lambda: "longitude and latitude" in page.text("#said"), True)
    lon, lat = place_of(1)
    page.do(f"document.querySelector('#strip input').value = '{lon}, {lat}'")
    page.click("#strip form button")
    eventually(lambda: page.do(pictures), before + 2)
    last = "document.querySelector('#strip li:last-child button')"
    eventually(lambda: page.do(f"{last}.getAttribute('aria-current')"), "true")
    assert page.text("#said") == ""  # of the place before


def test_what_is_clicked_as_grey_becomes_grey(page: Page) -> None:
    page.show_crop(1)
    page.choose("#recipes", "simple-gain")
    page.choose("#add", "white_balance")
    page.click("#steps li:last-child .tools > button")
    page.touch("pointerdown", 0.5, 0.5)
    fields = "[...document.querySelectorAll('#steps li:last-child input[type=number]')]"
    values = f"{fields}.map(field => +field.value)"
    eventually(lambda: page.do(values) != [1, 1, 1], True)
    gains = page.do(values)
    # Each is the mean of the three bands by its band: so the mean of their inverses is 1.
    assert 3 / sum(1 / gain for gain in gains) == pytest.approx(1, abs=0.01)


def test_a_recipe_is_saved_and_then_known(page: Page, directory: Path) -> None:
    page.choose("#recipes", "simple-gain")
    page.choose("#steps input[type=number]", 3.5, "input")
    fields = "document.querySelector('#save').elements"
    page.do(f"{fields}.name.value = 'natural'")
    page.click("#save button")
    eventually(lambda: "natural is a recipe of the checkout" in page.text("#said"), True)
    page.tab.events.clear()  # the browser logs the refusal
    page.do(f"{fields}.name.value = 'soft'; {fields}.description.value = 'Soft'")
    page.click("#save button")
    eventually(lambda: page.text("#said").startswith("Saved config/recipes/soft.yaml."), True)
    saved = yaml.safe_load((directory / "config/recipes/soft.yaml").read_text())
    assert saved == {"description": "Soft", "steps": [{"step": "gain", "factor": 3.5}]}
    assert page.do("document.querySelector('#recipes').value") == "soft"
    assert page.text("#after") == "after: soft"


def test_a_value_that_is_not_allowed_is_named_and_mended(page: Page) -> None:
    page.choose("#recipes", "simple-gain")
    page.choose("#steps input[type=number]", -1, "input")
    eventually(lambda: "steps.0.factor is -1; allowed: more than 0" in page.text("#said"), True)
    page.tab.events.clear()  # the browser logs the refusal
    page.choose("#steps input[type=number]", 2, "input")
    eventually(lambda: page.text("#said"), "")


def test_the_page_can_send_nothing_elsewhere(page: Page) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.5)
        elsewhere = f"http://127.0.0.1:{other.getsockname()[1]}/"
        page.do(
            "window.refused = 0; addEventListener('securitypolicyviolation', () => refused++);"
            f"fetch('{elsewhere}').catch(() => 0); new Image().src = '{elsewhere}';"
            f"navigator.sendBeacon('{elsewhere}')"
        )
        eventually(lambda: page.do("refused") >= 2, True)
        with pytest.raises(TimeoutError):
            other.accept()
    page.tab.events.clear()  # the browser logs each refusal
