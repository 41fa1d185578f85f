"""What `make tune` answers, what it refuses, and which files it writes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from werkzeug.test import Client, TestResponse

from basemake.build.config import check_recipe, read_recipe
from basemake.build.manifest import describe_request, write_manifest
from basemake.build.paths import MANIFEST
from basemake.build.quarter import Quarter
from basemake.errors import BasemakeError
from basemake.look.imagery import Imagery
from basemake.look.recipes import MARK, known_recipes, save_recipe, used_recipe
from basemake.look.tuning import LARGEST_REQUEST, PAGE, Tuning, application, steps_of_schema
from basemake.pixels.recipe import MIXING, TABLE_SIZE, CompiledRecipe
from lookable import BANDS, NORTH, PIXEL, SIDE, WEST, lay_out, opened, place_of, random_dn

TOKEN = "secret-token"
HERE = "http://127.0.0.1:8123"
GAIN = [{"step": "gain", "factor": 2.5}]
SOFT = {"name": "soft", "description": "Soft", "steps": GAIN}


@pytest.fixture(scope="module")
def imagery(tmp_path_factory, write_geotiff) -> Iterator[Imagery]:
    """Two tiles whose DN read differently; their directory is the current one."""
    folder = tmp_path_factory.mktemp("here")
    tiles = random_dn("int16", 1), random_dn("uint16", 2)
    with opened(lay_out(folder, write_geotiff, *tiles)) as build:
        yield Imagery(build)


@pytest.fixture(scope="module")
def tuning(imagery: Imagery) -> Tuning:
    return Tuning(imagery, [place_of(1)])


@pytest.fixture
def client(tuning: Tuning) -> Client:
    return Client(application(tuning, TOKEN))


def get(client: Client, path: str = f"/{TOKEN}/", **given: Any) -> TestResponse:
    return client.get(path, base_url=HERE, **given)


def post(client: Client, name: str, body: Any, **headers: str) -> TestResponse:
    return client.post(
        f"/{TOKEN}/{name}", base_url=HERE, json=body, headers={"Origin": HERE, **headers}
    )


# -- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/state", f"/{TOKEN}x/", "/../"])
def test_a_wrong_token_is_refused(client: Client, path: str) -> None:
    response = get(client, path)
    assert response.status_code == 403
    assert "token" in response.text
    assert TOKEN not in response.text


@pytest.mark.parametrize("host", ["example.org", "example.org:8123", "127.0.0.1.example.org"])
def test_another_host_is_refused(client: Client, host: str) -> None:
    response = client.get(f"/{TOKEN}/state", headers={"Host": host})
    assert response.status_code == 403
    assert host in response.text


def test_a_host_that_is_none_is_refused(client: Client) -> None:
    response = client.get(f"/{TOKEN}/state", headers={"Host": "["})
    assert response.status_code in (400, 403)
    assert response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://example.org"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_what_another_page_sends_is_refused(client: Client, headers: dict[str, str]) -> None:
    response = post(client, "save", SOFT, **headers)
    assert (response.status_code, response.text) == (403, "The request comes from another page.")
    assert not Path("config/recipes/soft.yaml").exists()


def test_a_form_of_another_page_cannot_save(client: Client) -> None:
    """Forms can send anything as text, without asking first, but not as application/json."""
    body = json.dumps(SOFT)
    kind = {"content_type": "text/plain"}
    response = client.post(f"/{TOKEN}/save", base_url=HERE, data=body, **kind)
    assert response.status_code == 400
    assert not Path("config/recipes/soft.yaml").exists()


@pytest.mark.parametrize("path", ["nothing", "../tuning.py", "looks.html", "tune.html"])
def test_only_the_pages_files_are_served(client: Client, path: str) -> None:
    assert get(client, f"/{TOKEN}/{path}").status_code == 404
    assert client.put(f"/{TOKEN}/save", base_url=HERE).status_code == 405


@pytest.mark.parametrize("path", ["/", f"/{TOKEN}/", f"/{TOKEN}/state", f"/{TOKEN}/nothing"])
def test_every_answer_forbids_what_the_page_does_not_need(client: Client, path: str) -> None:
    headers = get(client, path).headers
    policy = headers["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert not any("unsafe" in rule or "http" in rule or "*" in rule for rule in policy)
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("tables", {"steps": []}, "steps is []; allowed: at least 1 entry"),
        ("tables", {"steps": [{"step": "gane"}]}, "steps.0.step is 'gane'; allowed: gain"),
        ("tables", {"steps": "gain"}, "steps is 'gain'; allowed: a list"),
        ("measure", {"steps": [], "picture": 0, "at": [-99, -99]}, "there are no pixels here"),
        ("place", {"place": [3, 4]}, "the place 3,4"),
        ("place", {"picture": 1, "at": [3, 4]}, "a crop has no places"),
        ("save", {**SOFT, "name": "../soft"}, "the name is '../soft'; allowed: small letters"),
        ("save", {**SOFT, "name": 7}, "the name is 7; allowed"),
        ("save", {**SOFT, "steps": [{"step": "gain", "factor": -1}]}, "steps.0.factor is -1"),
    ],
)
def test_a_mistake_gets_one_sentence(client: Client, name: str, body: Any, said: str) -> None:
    response = post(client, name, body)
    assert response.status_code == 422
    assert said in response.text
    assert "\n" not in response.text
    assert response.text.endswith(".")


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("tables", {}),
        ("tables", {"steps": GAIN}),
        ("tables", {"steps": GAIN, "groups": [1]}),
        ("tables", []),
        ("measure", {"steps": [], "picture": 99}),
        ("measure", {"steps": [], "picture": 0, "at": "x"}),
        ("place", {"place": ["x", "y"]}),
        ("save", {"name": "soft"}),
    ],
)
def test_what_the_page_never_sends_is_refused(client: Client, name: str, body: Any) -> None:
    response = post(client, name, body)
    assert (response.status_code, response.text) == (400, "The request is not one of the page's.")


def test_a_request_that_is_too_long_is_refused(client: Client) -> None:
    response = post(client, "save", {**SOFT, "description": "x" * LARGEST_REQUEST})
    assert response.status_code == 413


# -- What is answered -----------------------------------------------------------------------------


def test_the_page_gets_the_steps_of_the_schema_with_sliders_inside_their_bounds() -> None:
    for name, step in steps_of_schema().items():
        start = {"step": name}
        for key, bounds in step["parameters"].items():
            low, first, high = bounds["slider"]
            assert low < first < high or low <= first <= high, (name, key)
            assert bounds.get("minimum", -np.inf) <= low, (name, key)
            assert bounds.get("exclusiveMinimum", -np.inf) < low, (name, key)
            assert high <= bounds["maximum"], (name, key)
            start[key] = first
        check_recipe({"steps": [start]}, name)  # what the page adds is allowed
        assert step["description"]
        assert step["mixes"] == (name in MIXING)


def test_the_page_paints_every_mixing_step() -> None:
    script = (PAGE / "paint.js").read_text()
    named = script.split("export const MIXING = [")[1].split("]")[0]
    assert [name.strip(' "') for name in named.split(",")] == [*MIXING]


def test_the_state_has_pictures_with_their_digital_numbers(
    client: Client, imagery: Imagery
) -> None:
    state = get(client, f"/{TOKEN}/state").get_json()
    assert state["used"] == state["recipes"][0]["name"] == "l2a-optimized"
    assert state["readings"] == 2
    drawn, *_, last = state["pictures"]
    assert (drawn["map"], drawn["title"], last["title"]) == (True, "here", "place")
    number = len(state["pictures"]) - 1
    data = get(client, f"/{TOKEN}/pictures/{number}").data
    dn = np.frombuffer(data, "<u2").reshape(last["height"], last["width"], 4)
    assert dn.shape == (SIDE, SIDE, 4)
    expected = np.moveaxis(random_dn("uint16", 2), 0, -1)
    assert (dn[..., 3] > 0).all()  # uint16 cannot hold the source's nodata
    assert (dn[..., :3] == expected).all()


def test_tables_are_those_of_the_recipe(client: Client, imagery: Imagery) -> None:
    steps = read_recipe("natural")["steps"]
    response = post(client, "tables", {"steps": steps, "groups": [0, 1]})
    tables = np.frombuffer(response.data, "<f4").reshape(-1, 3, TABLE_SIZE)
    assert len(tables) == 3  # one of each reading, one after the mixing step
    for table, reading in zip(tables, imagery.readings, strict=False):
        compiled = CompiledRecipe(steps, reading.dn, np.dtype(reading.dtype))
        assert (table == compiled.tables[0]).all()
        assert (tables[2] == compiled.tables[1]).all()
    only = post(client, "tables", {"steps": steps, "groups": [1]}).data
    assert only == tables[2].tobytes()


def test_what_enters_a_step_is_measured(client: Client, tuning: Tuning, imagery: Imagery) -> None:
    crop = [p["title"] for p in tuning.state()["pictures"]].index("place")
    whole = post(client, "measure", {"steps": GAIN, "picture": crop}).get_json()
    values = random_dn("uint16", 2).reshape(3, -1) * 0.0001 * 2.5
    assert whole["mean"] == pytest.approx(values.mean(axis=1), rel=0.01)
    assert whole["high"] == pytest.approx(np.percentile(values, 99.5, axis=1), rel=0.02)
    at = post(client, "measure", {"steps": [], "picture": crop, "at": [100, 200]}).get_json()
    around = random_dn("uint16", 2)[:, 198:203, 98:103] * 0.0001
    assert at["mean"] == pytest.approx(around.mean(axis=(1, 2)), rel=1e-4)


def test_a_place_is_added_by_degrees_and_by_a_point_of_the_map(tuning: Tuning) -> None:
    before = len(tuning.state()["pictures"])
    added = tuning.add_place({"place": place_of(0)})
    assert added["place"] == place_of(0)
    drawn = tuning.state()["pictures"][0]
    middle = tuning.add_place({"picture": 0, "at": [drawn["width"] / 4, drawn["height"] / 2]})
    assert middle["place"] == pytest.approx(place_of(0), abs=0.02)
    assert len(tuning.state()["pictures"]) == before + 2


def test_a_map_comes_from_the_draft_and_a_crop_from_the_full_bands(
    tmp_path: Path, write_geotiff, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, coarse = (np.full((3, side, side), dn, np.int16) for side, dn in ((SIDE, 900), (50, 800)))
    arguments = lay_out(tmp_path, write_geotiff, full)
    bands = tmp_path / "draft/results/bands/33TWM_0_0"
    for key, band in zip(BANDS.values(), coarse, strict=True):
        pixel = PIXEL * SIDE / 50
        write_geotiff(bands / f"{key}.tif", band, origin=(WEST, NORTH), pixel=pixel)
    with opened(arguments) as build:
        absolute = replace(build.source, items=str(tmp_path / "items.json"))
        request = describe_request(absolute, Quarter(2025, 3), build.regions)
        document = json.loads((tmp_path / MANIFEST).read_text())
        write_manifest(tmp_path / "draft" / MANIFEST, request, document["features"])
        monkeypatch.setattr("basemake.look.pictures.MAP_SIDE", 25)
        imagery = Imagery(build)
        assert set(imagery.map_of("here").dn[..., 0].ravel()) <= {0, 800}
        assert (imagery.crop("place", *place_of(0)).dn[..., :3] == 900).all()
        (tmp_path / MANIFEST).unlink()  # as before anything but a draft was made
        assert (Imagery(build).crop("place", *place_of(0)).dn[..., :3] == 800).all()


# -- Saving ---------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_saved_recipe_is_found_by_its_name_and_replaced_when_saved_again(directory: Path) -> None:
    steps = [{"factor": 2.5, "step": "gain", "bands": ["red"]}, {"step": "srgb"}]
    path = save_recipe("soft-1", "Soft: and #1", steps)
    assert path == Path("config/recipes/soft-1.yaml")
    assert yaml.safe_load(path.read_text()) == {"description": "Soft: and #1", "steps": steps}
    assert read_recipe("soft-1")["steps"] == steps
    assert "  - {step: gain, factor: 2.5, bands: [red]}\n" in path.read_text()
    save_recipe("soft-1", "", GAIN)
    assert read_recipe("soft-1")["steps"] == GAIN
    assert [file.name for file in directory.rglob("*") if file.is_file()] == ["soft-1.yaml"]


def test_a_shipped_recipe_and_one_by_hand_are_never_replaced(directory: Path) -> None:
    with pytest.raises(BasemakeError, match="natural is a recipe of the checkout; choose another"):
        save_recipe("natural", "", GAIN)
    assert not (directory / "config").exists()
    own = directory / "config/recipes/mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# By hand\nsteps: [{step: srgb}]\n")
    with pytest.raises(BasemakeError, match=r"mine.yaml was not made by make tune"):
        save_recipe("mine", "", GAIN)
    assert own.read_text().startswith("# By hand")


@pytest.mark.parametrize("name", ["", "Soft", "-a", "a/b", "..", "a.yaml", "a\n", "ü", "a" * 62])
def test_a_name_that_is_no_file_name_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(BasemakeError, match="allowed: small letters"):
        save_recipe(name, "", GAIN)
    assert not [*directory.iterdir()]


def test_a_folder_that_cannot_be_made_is_named(directory: Path) -> None:
    (directory / "config").write_text("a file")
    with pytest.raises(BasemakeError, match=r"config/recipes/soft.yaml cannot be written"):
        save_recipe("soft", "", GAIN)


def test_the_recipe_in_use_comes_first_and_own_ones_before_shipped_of_their_name(
    directory: Path,
) -> None:
    save_recipe("soft", "", GAIN)
    (directory / "other.yaml").write_text("steps: [{step: srgb}]")
    (directory / "config/recipes/natural.yaml").write_text("steps: [{step: srgb}]")
    known = known_recipes({"recipe": "other.yaml"})
    assert [*known] == [
        *("other.yaml", "l2a-optimized", "natural", "quicklook", "simple-gain", "soft")
    ]
    assert known["natural"]["steps"] == [{"step": "srgb"}]
    assert used_recipe({"recipe": "config/recipes/soft.yaml"}) == "soft"


def test_the_page_says_how_to_build_with_what_it_saved(client: Client) -> None:
    said = post(client, "save", SOFT).get_json()
    assert said["said"] == (
        "Saved config/recipes/soft.yaml. To build with it, set recipe: soft in the config."
    )
    assert "soft" in [recipe["name"] for recipe in said["recipes"]]
    text = Path("config/recipes/soft.yaml").read_text()
    assert text == f"{MARK}\ndescription: Soft\nsteps:\n  - {{step: gain, factor: 2.5}}\n"
