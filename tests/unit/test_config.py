"""Config, source and recipe files: the shipped ones, and the sentence that each mistake gets."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from basemake.build.config import (
    check,
    check_fill,
    credit_of,
    read_recipe,
    read_source,
    read_yaml,
)
from basemake.build.region import read_region
from basemake.errors import ConfigError

CONFIG = Path(__file__).resolve().parents[2] / "config"
SCHEMAS = {path.name.split(".")[0]: path for path in CONFIG.glob("*.schema.yaml")}
LEAST = {"source": "cdse", "quarter": "2025Q3", "regions": {"alps": "alps.geojson"}}
SOURCE = {
    "type": "catalog",
    "items": "items.json",
    "bands": {"red": "B04", "green": "B03", "blue": "B02"},
    "dn": {"scale": 0.0001, "offset": 0.0, "nodata": -32768},
    "attribution": "Somebody {year}",
}
RECIPE = {"steps": [{"step": "gain", "factor": 2.5}, {"step": "saturation", "factor": 1.2}]}
REMOVED = object()


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def changed(document: dict, key: str, value: Any) -> dict:
    """Return a copy in which `key`, a path with dots, is `value`."""
    document = copy.deepcopy(document)
    place: Any = document
    *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else place[parent]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return document


def one_sentence(refusal: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(refusal.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert not re.search(r"[.!?] [A-Z]", text), text
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    return text


def leaves(schema: dict, key: str = "") -> Iterator[tuple[str, dict]]:
    """Yield each (key, subschema) that holds no further keys."""
    for name, subschema in schema["properties"].items():
        if "properties" in subschema:
            yield from leaves(subschema, f"{key}{name}.")
        else:
            yield key + name, subschema


# -- What is shipped ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config", "source", "recipe"])
def test_schemas_are_schemas_and_closed(name: str) -> None:
    schema = load(SCHEMAS[name])
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    for key, subschema in leaves(schema):
        assert subschema.get("type") != "object" or "additionalProperties" in subschema, key
        if "default" in subschema:
            Draft202012Validator(subschema).validate(subschema["default"])


def test_the_shipped_files_are_valid() -> None:
    config = check(load(CONFIG / "config.yaml"), "config", "config.yaml")
    for name, path in config["regions"].items():
        assert read_region(name, CONFIG.parent / path).area > 0
    sources = sorted(path.stem for path in CONFIG.glob("sources/*"))
    recipes = sorted(path.stem for path in CONFIG.glob("recipes/*"))
    assert {"cdse", "simulated"} <= set(sources)
    assert {"l2a-optimized", "simple-gain", "natural", "quicklook"} <= set(recipes)
    for name in sources:
        assert read_source(name).attribution
    for name in recipes:
        assert read_recipe(name)["description"]


def test_a_source_of_the_mosaics_gives_the_credit_that_the_licence_asks_for() -> None:
    credit = "Contains modified Copernicus Sentinel data {year}"
    assert read_source("cdse").attribution == credit


def test_the_credit_names_the_years_of_all_quarters() -> None:
    source, config = read_source("cdse"), {"quarter": "2025Q3", "fill": []}
    text = "Contains modified Copernicus Sentinel data "
    for fill, years in (
        ([], "2025"),
        (3, "2025"),
        (["2025Q2"], "2025"),
        (["2025Q2", "2024Q3", "2023Q3"], "2023, 2024, 2025"),
    ):
        assert credit_of(source, {**config, "fill": fill}) == text + years


def test_config_yaml_shows_every_key_with_its_default_and_a_comment_near() -> None:
    text = (CONFIG / "config.yaml").read_text().splitlines()
    values = load(CONFIG / "config.yaml")
    for key, subschema in leaves(load(SCHEMAS["config"])):
        value = values
        for part in key.split("."):
            value = value[part]
        # The demo is so small that metatiles of the default size would leave nothing to plan.
        if "default" in subschema and key != "pyramid.metatile_zoom":
            assert value == subschema["default"], key
        line = next(i for i, line in enumerate(text) if re.match(rf" *{key.split('.')[-1]}:", line))
        assert any("# " in near for near in text[line - 3 : line + 1]), key


# -- What a config may contain --------------------------------------------------------------------


def test_defaults_are_filled_in_at_every_depth_and_the_original_is_left_alone() -> None:
    document = changed(LEAST, "pyramid.max_zoom", 9)
    before = copy.deepcopy(document)
    filled = check(document, "config", "test")
    assert document == before
    assert filled["recipe"] == "l2a-optimized"
    assert filled["threads"] == {"enhance": "auto", "render": "auto"}
    assert filled["pyramid"]["max_zoom"] == 9
    assert filled["pyramid"]["outputs"] == ["pmtiles"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pyramid.max_zoom", 0),
        ("pyramid.metatile_zoom", "auto"),
        ("pyramid.quality", "lossless"),
        ("pyramid.outputs", ["cog", "folder", "mbtiles", "pmtiles"]),
        ("regions", {"a-1": "x", "B_c": "y", "north_33T": "z"}),
        ("source", "mine.yaml"),
    ],
)
def test_values_at_the_edge_of_what_is_allowed_are_accepted(key: str, value: Any) -> None:
    check(changed(LEAST, key, value), "config", "test")


@pytest.mark.parametrize(
    ("schema", "key", "value", "said"),
    [
        ("config", "pyramd", {}, "unknown key 'pyramd' with value {} (did you mean pyramid?);"),
        ("config", "pyramid.max_zom", 3, "'max_zom' with value 3 in pyramid (did you mean max_zo"),
        (
            "config",
            "zzz",
            1,
            "unknown key 'zzz' with value 1; allowed: fetch, fill, gdal_cache_mb, keep_bands",
        ),
        ("config", "quarter", REMOVED, "quarter is missing"),
        ("config", "quarter", "2025Q5", "quarter is '2025Q5'; allowed: a year, Q and the quarter"),
        ("config", "quarter", "2025Q3\n", "quarter is '2025Q3\\n'; allowed: a year, Q and the qua"),
        ("config", "quarter", 2025, "quarter is 2025; allowed: text"),
        ("config", "quarter", None, "quarter is empty; allowed: text"),
        (
            "config",
            "preview.labels",
            "https://a.org;script-src/{z}",
            "preview.labels is 'https://a.org;script-src/{z}'; allowed: none, or an https",
        ),
        ("config", "fill", ["2025Q5"], "fill.0 is '2025Q5'; allowed: a year, Q and the quarter"),
        (
            "config",
            "fill",
            0,
            "fill is 0; allowed: a list of up to 8 different quarters, such as [2025Q2, 2024Q3],",
        ),
        ("config", "fill", "2025Q2", "fill is '2025Q2'; allowed: a list of up to 8 different"),
        ("config", "regions", {}, "regions is {}; allowed: at least 1 entry"),
        ("config", "regions", "alps.geojson", "regions is 'alps.geojson'; allowed: a mapping"),
        (
            "config",
            "regions.alps",
            5,
            "regions.alps is 5; allowed: the path of a GeoJSON file, or path#property=value",
        ),
        ("config", "regions", {"a b": "x"}, "regions has the name 'a b'; allowed: region names of"),
        ("config", "regions", {"../x": "x"}, "regions has the name '../x'; allowed"),
        ("config", "regions", {"alps_32633": "x"}, "'alps_32633'; allowed: region names of"),
        ("config", "regions", {"_a": "x"}, "'_a'; allowed: region names of"),
        ("config", "regions", {"index": "x"}, "'index'; allowed: region names of"),
        ("config", "regions", {"collection": "x"}, "'collection'; allowed: region names of"),
        ("config", "regions", {7: "x"}, "regions has the name 7; allowed: text"),
        ("config", "tile_codec", "lzw", "tile_codec is 'lzw'; allowed: webp, zstd, deflate"),
        ("config", "keep_bands", "yes", "keep_bands is 'yes'; allowed: true or false"),
        ("config", "threads", 4, "threads is 4; allowed: a mapping"),
        ("config", "threads.enhance", 0, "threads.enhance is 0; allowed: a whole number from 1 to"),
        ("config", "threads.enhance", 65, "is 65; allowed: a whole number from 1 to 64, or auto"),
        ("config", "threads.enhance", "all", "is 'all'; allowed: a whole number from 1 to 64"),
        ("config", "threads.render", 2.5, "threads.render is 2.5; allowed: a whole number"),
        ("config", "threads.render", True, "threads.render is True; allowed: a whole number"),
        ("config", "gdal_cache_mb", 1, "gdal_cache_mb is 1; allowed: at least 16"),
        ("config", "pyramid.min_zoom", 21, "pyramid.min_zoom is 21; allowed: at most 20"),
        ("config", "pyramid.max_zoom", "best", "is 'best'; allowed: a whole number from 0 to 20"),
        ("config", "pyramid.max_zoom", 13.0, "max_zoom is 13.0; allowed: a whole number from 0"),
        ("config", "pyramid.max_zoom", -1, "pyramid.max_zoom is -1; allowed: a whole number from"),
        ("config", "pyramid.tile_size", 300, "pyramid.tile_size is 300; allowed: 256, 512"),
        ("config", "pyramid.quality", 0, "pyramid.quality is 0; allowed: a whole number from 1 to"),
        ("config", "pyramid.format", "gif", "pyramid.format is 'gif'; allowed: webp, png, jpeg"),
        (
            "config",
            "pyramid.background",
            None,
            "is empty; allowed: none, or a colour of six digits in quotes",
        ),
        ("config", "pyramid.background", "#123", "is '#123'; allowed: none, or a colour of"),
        ("config", "pyramid.url", "maps.example.org", "'maps.example.org'; allowed: none, or an"),
        ("config", "pyramid.url", "https://a.org/{z}", "is 'https://a.org/{z}'; allowed: none, or"),
        ("config", "preview.labels", "https://a.org/{z}.png", "allowed: none, or an https address"),
        ("config", "preview.credit", "\ud83d", r"credit is '\ud83d'; allowed: the credit that"),
        ("config", "pyramid.fade_km", 101, "pyramid.fade_km is 101; allowed: at most 100"),
        ("config", "pyramid.outputs", [], "pyramid.outputs is []; allowed: at least 1 entry"),
        ("config", "pyramid.outputs", ["cog"] * 2, "is ['cog', 'cog']; each entry may stand once"),
        (
            "config",
            "pyramid",
            {"format": "jpeg", "quality": "lossless"},
            "pyramid.quality is 'lossless'; allowed: a whole number, from 1 to 100 (jpeg is never",
        ),
        ("source", "type", "stac", "type is 'stac'; allowed: simulated, catalog, api"),
        ("source", "title", "a\x0bb", r"title is 'a\x0bb'; allowed: what the imagery is"),
        ("source", "attribution", "a\ud800", r"'a\ud800'; allowed: the credit that the licence"),
        ("source", "items", REMOVED, "items is missing"),
        ("source", "type", "api", "url is missing"),
        ("source", "url", "https://me:secret@x.org", "url is 'https://me:secret@x.org'; allowed"),
        ("source", "bands.red", REMOVED, "bands.red is missing"),
        ("source", "bands.red", "../B04", "bands.red is '../B04'; allowed: the key of an asset"),
        ("source", "bands.nir", "B08", "unknown key 'nir' with value 'B08' in bands; allowed"),
        ("source", "dn.scale", 0, "dn.scale is 0; allowed: more than 0"),
        ("source", "dn.scale", "1e-4", "dn.scale is '1e-4'; allowed: a number"),
        ("source", "dn.offset", float("nan"), "dn.offset is nan; allowed: a number"),
        ("source", "dn.nodata", 70000, "dn.nodata is 70000; allowed: at most 65535"),
        ("source", "dn.nodata", "none", "dn.nodata is 'none'; allowed: a whole number or null"),
        ("source", "dn.dtype", "float32", "dn.dtype is 'float32'; allowed: uint8, int16, uint16"),
        ("source", "hosts", ["https://x.org"], "hosts.0 is 'https://x.org'; allowed: host or ho"),
        ("source", "href", "ftp://b/{tile}", "href is 'ftp://b/{tile}'; allowed"),
        ("recipe", "steps", [], "steps is []; allowed: at least 1 entry"),
        ("recipe", "steps.0.step", "gane", "steps.0.step is 'gane'; allowed: gain, white"),
        ("recipe", "steps.0.factor", REMOVED, "steps.0.factor is missing"),
        ("recipe", "steps.0.factor", -1, "steps.0.factor is -1; allowed: more than 0"),
        ("recipe", "steps.0.factr", 2, "'factr' with value 2 in steps.0 (did you mean factor?)"),
        ("recipe", "steps.0.bands", ["nir"], "steps.0.bands.0 is 'nir'; allowed: red, green, blue"),
        ("recipe", "steps.1.bands", ["red"], "unknown key 'bands' with value ['red'] in steps.1"),
        ("recipe", "steps.1", "srgb", "steps.1 is 'srgb'; allowed: a mapping"),
    ],
)
def test_a_mistake_gets_one_sentence_with_key_value_and_what_is_allowed(
    schema: str, key: str, value: Any, said: str
) -> None:
    document = {"config": LEAST, "source": SOURCE, "recipe": RECIPE}[schema]
    check(document, schema, "fine")
    with pytest.raises(ConfigError) as refusal:
        check(changed(document, key, value), schema, "my.yaml")
    text = one_sentence(refusal)
    assert text.startswith("my.yaml: ")
    assert said in text


@pytest.mark.parametrize("content", [None, [], "text", 3])
@pytest.mark.parametrize("schema", ["config", "source", "recipe"])
def test_a_file_without_keys_is_refused(schema: str, content: Any) -> None:
    with pytest.raises(ConfigError) as refusal:
        check(content, schema, "my.yaml")
    said = f"my.yaml: the file's content is {content!r}; allowed: a mapping."
    assert one_sentence(refusal) == said


LINES = """\
quarter: 2025-07
regions:
  alps: alps.geojson
  alps_3: 5
  no: norway.geojson
pyramid: {min_zoom: 0,
          quality: 101}
quater: 2025Q3
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("quarter", 1),
        ("regions.alps_3", 4),
        ("regions.False", 5),
        ("pyramid.quality", 7),
        ("quater", 8),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, key: str, line: int) -> None:
    path, other = tmp_path / "config.yaml", tmp_path / "other.yaml"
    path.write_text(LINES)
    other.write_text("source: simulated\n")
    first, *rest = key.split(".")
    value = yaml.safe_load(LINES)[first]
    wrong = {name: value[name] for name in value if str(name) in rest} if rest else value
    with pytest.raises(ConfigError) as refusal:
        check({**LEAST, first: wrong}, "config", "config", [path, other])
    assert one_sentence(refusal).startswith(f"{path}, line {line}: ")
    # A value that stands in no file, as one of --config, has no line.
    with pytest.raises(ConfigError) as refusal:
        check({**LEAST, "tile_codec": "zip"}, "config", "config", [path, other])
    assert one_sentence(refusal).startswith("config: tile_codec is 'zip'")


# -- Sources and recipes by name and by path ------------------------------------------------------


@pytest.fixture
def write_yaml(tmp_path: Path) -> Any:
    def write(document: Any) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        return str(path)

    return write


def test_a_users_own_files_are_read_by_path(write_yaml: Any, monkeypatch: Any) -> None:
    path = Path(write_yaml(SOURCE))
    monkeypatch.chdir(path.parent)
    assert read_source(str(path)) == read_source("mine.yaml") == read_source("./mine.yaml")
    assert read_source(str(path)).hosts == []
    write_yaml(RECIPE)
    assert read_recipe("mine.yaml")["steps"] == RECIPE["steps"]


@pytest.mark.parametrize(
    ("read", "kind", "known"),
    [
        (read_source, "source", "cdse, cdse-https, cdse-s3, "),
        (read_recipe, "recipe", "l2a-optimized, natural"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(read: Any, kind: str, known: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        read("cdes")
    text = one_sentence(refusal)
    assert f"{kind} is 'cdes'" in text
    assert known in text
    assert "path" in text


@pytest.mark.parametrize("read", [read_source, read_recipe])
def test_a_missing_or_unreadable_file_is_named(read: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*gone\.yaml; check the path") as gone:
        read(str(tmp_path / "gone.yaml"))
    one_sentence(gone)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.yaml cannot be read") as folder:
        read(str(tmp_path / "folder.yaml"))
    one_sentence(folder)


@pytest.mark.parametrize("text", ["type: [api", "a: b: c", "a: 1\n\tb: 2", "x: !!python/name:os."])
def test_bad_yaml_is_named_with_its_place(write_yaml: Any, text: str) -> None:
    path = write_yaml(text)
    with pytest.raises(
        ConfigError, match=r"mine\.yaml, line \d, column \d+ is not YAML \("
    ) as refusal:
        read_yaml(Path(path), "source 'mine.yaml'")
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("attribution: Müller".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml cannot be read \(.*utf-8"):
        read_yaml(path, "source")


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(?P<tile>", "not a regular expression"),
        ("([A-Z]+)", "no group (?P<tile>...)"),
        ("(?P<til>.*)", "no group (?P<tile>...)"),
    ],
)
def test_an_id_pattern_must_name_the_tile(write_yaml: Any, pattern: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        read_source(write_yaml({**SOURCE, "id_pattern": pattern}))
    text = one_sentence(refusal)
    assert f"id_pattern is {pattern!r}" in text
    assert problem in text


@pytest.mark.parametrize("key", ["url", "href", "token_url", "endpoint"])
def test_an_address_that_cannot_be_read_is_named(write_yaml: Any, key: str) -> None:
    document = dict(SOURCE)
    if key == "token_url":
        document["credentials"] = {"type": "sas", key: "https://[::1", "hosts": ["x.org"]}
    elif key == "endpoint":
        document["credentials"] = {"type": "s3", key: "https://[::1", "region": "x"}
    else:
        document[key] = "https://[::1"
    with pytest.raises(ConfigError) as refusal:
        read_source(write_yaml(document))
    said = f"{key} is 'https://[::1', which is not an address"
    assert said in one_sentence(refusal)


def test_yaml_that_is_nested_too_deep_is_named(write_yaml: Any) -> None:
    with pytest.raises(ConfigError, match="is not YAML") as refusal:
        read_source(write_yaml("[" * 20_000))
    one_sentence(refusal)


@pytest.mark.parametrize("placeholder", ["{tiel}", "{}", "{0}", "{tile.x}", "{tile[x]}", "{tile"])
def test_an_href_has_known_placeholders_only(write_yaml: Any, placeholder: str) -> None:
    href = f"https://x.org/{placeholder}.tif"
    with pytest.raises(ConfigError) as refusal:
        read_source(write_yaml({**SOURCE, "href": href}))
    text = one_sentence(refusal)
    assert f"href is {href!r}; allowed placeholders: {{item}}, {{tile}}, {{asset}}" in text


def test_a_midpoint_beyond_the_maximum_is_refused(write_yaml: Any) -> None:
    step = {"step": "highlight_compression", "maximum": 1.0, "midpoint": 1.0}
    with pytest.raises(ConfigError) as refusal:
        read_recipe(write_yaml({"steps": [{"step": "srgb"}, step]}))
    assert "steps.1.midpoint is 1.0; allowed: less than" in one_sentence(refusal)


@pytest.mark.parametrize(
    ("fill", "dates", "said"),
    [
        (
            ["2025Q2", "2025Q3"],
            None,
            "config: fill has '2025Q3', which is the map's own quarter; allowed: others.",
        ),
        (["2025Q2"], "2025-07-01/2025-07-15", "but the source has dates, 2025-07-01/2025-07-15"),
    ],
)
def test_quarters_that_cannot_fill_are_refused(
    write_yaml, fill: list[str], dates: str | None, said: str
) -> None:
    source = read_source(write_yaml({**SOURCE, **({"dates": dates} if dates else {})}))
    with pytest.raises(ConfigError, match=re.escape(said)):
        check_fill({**LEAST, "fill": fill}, source)
    check_fill({**LEAST, "fill": 3}, source)


@pytest.mark.parametrize(
    ("mask", "fine"),
    [
        ({"asset": "SCL", "invalid": [0, 9], "grow": 60}, True),
        ({"asset": "QA", "bits": [0, 15]}, True),
        ({"asset": "SCL"}, False),
        ({"asset": "SCL", "invalid": [0], "bits": [1]}, False),
        ({"asset": "SCL", "invalid": []}, False),
        ({"asset": "QA", "bits": [16]}, False),
    ],
)
def test_a_mask_has_either_classes_or_bits(write_yaml, mask: dict, fine: bool) -> None:
    path = write_yaml({**SOURCE, "mask": mask})
    if fine:
        assert read_source(path).mask == mask
    else:
        with pytest.raises(ConfigError, match="mask"):
            read_source(path)
