"""Regions: every GeoJSON that holds a polygon, and the sentence that each other file gets."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shapely
from shapely.geometry import Polygon

from basemake.build.region import read_region, read_regions
from basemake.errors import RegionError

Read = Callable[[Any], Any]
RING = [[10, 40], [12, 40], [12, 41], [10, 41], [10, 40]]
SQUARE = {"type": "Polygon", "coordinates": [RING]}
EAST = {"type": "Polygon", "coordinates": [[[x + 1, y] for x, y in RING]]}
POINT = {"type": "Point", "coordinates": [0, 0]}


def polygon(*rings: list) -> dict:
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry: dict | None) -> dict:
    return {"type": "Feature", "properties": {"name": "any"}, "geometry": geometry}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """A function that reads a document, or a text, as the region of a file."""

    def write_and_read(document: Any) -> Any:
        path = tmp_path / "alps.geojson"
        text = document if isinstance(document, str) else json.dumps(document)
        path.write_text(text, encoding="utf-8")
        return read_region("alps", path)

    return write_and_read


def refused(read: Read, document: Any) -> str:
    """Return the one sentence that refuses a document."""
    with pytest.raises(RegionError) as refusal:
        read(document)
    text = str(refusal.value)
    assert text.startswith("region 'alps' (")
    assert "alps.geojson)" in text
    assert text.endswith(".")
    assert "\n" not in text
    assert not re.search(r"\. [A-Z]", text), text
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    return text


# -- What is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        SQUARE,
        {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"]]},
        feature(SQUARE),
        {"type": "FeatureCollection", "features": [feature(SQUARE)]},
        {"type": "FeatureCollection", "features": [feature(None), feature(POINT), feature(SQUARE)]},
        {"type": "GeometryCollection", "geometries": [POINT, SQUARE]},
        feature({"type": "GeometryCollection", "geometries": [SQUARE, SQUARE]}),
        polygon(RING[::-1]),
        polygon(RING[:-1]),
        polygon([[*point, 800.5] for point in RING]),
        "\ufeff" + json.dumps(SQUARE),
        {**SQUARE, "bbox": [0, 0, 1, 1], "crs": {"type": "name"}, "extra": 1},
    ],
    ids=[
        "Polygon", "MultiPolygon", "Feature", "FeatureCollection", "among-others",
        "GeometryCollection", "twice", "clockwise", "unclosed", "3D", "BOM", "foreign-members",
    ],
)  # fmt: skip
def test_every_form_of_one_polygon_is_the_same_region(read: Read, document: Any) -> None:
    region = read(document)
    assert region.equals(shapely.box(10, 40, 12, 41))
    assert not region.has_z


def test_polygons_of_a_file_are_united(read: Read) -> None:
    region = read({"type": "FeatureCollection", "features": [feature(SQUARE), feature(EAST)]})
    assert region.geom_type == "Polygon"
    assert region.equals(shapely.box(10, 40, 13, 41))
    apart = polygon([[x + 5, y] for x, y in RING])
    both = read({"type": "GeometryCollection", "geometries": [SQUARE, apart]})
    assert both.geom_type == "MultiPolygon"
    assert both.area == pytest.approx(4)


def test_holes_stay_holes(read: Read) -> None:
    hole = [[10.5, 40.2], [10.5, 40.8], [11.5, 40.8], [11.5, 40.2], [10.5, 40.2]]
    expected = Polygon(RING, [hole])
    assert read(polygon(RING, hole)).equals(expected)
    assert read(polygon(RING, hole[::-1])).equals(expected)


def test_the_edge_of_the_world_is_inside_it(read: Read) -> None:
    world = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]
    assert read(polygon(world)).equals(shapely.box(-180, -90, 180, 90))
    cap = [[-180, 60], [180, 60], [180, 75], [-180, 75], [-180, 60]]
    assert read(polygon(cap)).equals(shapely.box(-180, 60, 180, 75))
    roof = [[-180, 60], [180, 60], [180, 75], [0, 80], [-180, 75], [-180, 60]]
    assert read(polygon(roof)).equals(Polygon(roof))


# -- The antimeridian -----------------------------------------------------------------------------


UNSPLIT = [[177, -20], [-178, -20], [-178, -15], [177, -15], [177, -20]]
SPLIT = {
    "type": "MultiPolygon",
    "coordinates": [
        [[[177, -20], [180, -20], [180, -15], [177, -15], [177, -20]]],
        [[[-180, -20], [-178, -20], [-178, -15], [-180, -15], [-180, -20]]],
    ],
}


@pytest.mark.parametrize("ring", [UNSPLIT, UNSPLIT[::-1], UNSPLIT[2:] + UNSPLIT[1:3]])
def test_a_ring_across_the_antimeridian_is_the_split_multipolygon(read: Read, ring: list) -> None:
    split = read(SPLIT)
    assert split.equals(shapely.union(shapely.box(177, -20, 180, -15),
                                      shapely.box(-180, -20, -178, -15)))  # fmt: skip
    assert read(polygon(ring)).equals(split)


def test_a_hole_across_the_antimeridian_is_split_too(read: Read) -> None:
    hole = [[179, -18], [179, -17], [-179, -17], [-179, -18], [179, -18]]
    region = read(polygon(UNSPLIT, hole))
    assert region.area == pytest.approx(25 - 2)
    assert not region.intersects(shapely.Point(179.5, -17.5))
    assert not region.intersects(shapely.Point(-179.5, -17.5))


def test_a_polygon_around_a_pole_reaches_it(read: Read) -> None:
    region = read(polygon([[0, 70], [120, 70], [-120, 70], [0, 70]]))
    assert region.equals(shapely.box(-180, 70, 180, 90))


def test_a_wide_polygon_that_does_not_cross_is_left_alone(read: Read) -> None:
    ring = [[-120, 10], [0, 10], [130, 10], [130, 20], [0, 20], [-120, 20], [-120, 10]]
    assert read(polygon(ring)).equals(shapely.box(-120, 10, 130, 20))


@pytest.mark.parametrize(("west", "east"), [(-95, 95), (-140, 140), (-149.9, 149.9)])
def test_an_edge_that_may_be_meant_either_way_is_refused_with_both(
    read: Read, west: float, east: float
) -> None:
    ring = [[west, 40], [east, 40], [east, 50], [west, 50], [west, 40]]
    text = refused(read, polygon(ring))
    assert (
        f"has an edge from longitude {west:g} to {east:g}, which can be meant in two ways" in text
    )
    assert "put points between" in text
    assert "draw a MultiPolygon" in text
    between = [[west, 40], [0, 40], [east, 40], [east, 50], [0, 50], [west, 50], [west, 40]]
    assert read(polygon(between)).equals(shapely.box(west, 40, east, 50))


# -- One feature of many --------------------------------------------------------------------------


CANTONS = {
    "type": "FeatureCollection",
    "features": [
        {**feature(SQUARE), "properties": {"name": "Ticino", "id": 21}},
        {**feature(EAST), "properties": {"name": "Uri", "id": 4}},
        {**feature(polygon([[x, y + 5] for x, y in RING])), "properties": {"name": "Uri"}},
        {**feature(SQUARE), "properties": None},
    ],
}


@pytest.fixture
def choose(tmp_path: Path) -> Callable[[str], Any]:
    """A function that reads the features of a collection that a selector names."""
    path = tmp_path / "cantons.geojson"
    path.write_text(json.dumps(CANTONS))
    return lambda selector: read_region("alps", f"{path}#{selector}")


def test_features_are_chosen_by_a_property(choose: Callable[[str], Any]) -> None:
    assert choose("name=Ticino").equals(shapely.box(10, 40, 12, 41))
    assert choose("id=21").equals(choose("name=Ticino"))
    uri = shapely.union(shapely.box(11, 40, 13, 41), shapely.box(10, 45, 12, 46))
    assert choose("name=Uri").equals(uri)


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("name=Tessin", "no feature whose 'name' is 'Tessin'; it has others, such as Ticino."),
        ("nam=Uri", "no feature with a property 'nam'; it has others, such as name."),
        ("name=", "no feature whose 'name' is ''; it has others, such as Ticino, Uri."),
        ("Uri", "has 'Uri' behind the #; allowed is property=value"),
    ],
)
def test_a_feature_that_is_not_there_is_told_what_is(
    choose: Callable[[str], Any], selector: str, said: str
) -> None:
    with pytest.raises(RegionError) as refusal:
        choose(selector)
    assert said in str(refusal.value)


@pytest.mark.parametrize("folder", [".", "drawn #1=2"])
def test_a_value_may_have_a_hash_sign(tmp_path: Path, folder: str) -> None:
    parks = {**CANTONS, "features": [{**feature(SQUARE), "properties": {"name": "Park #3"}}]}
    path = tmp_path / folder / "parks.geojson"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(parks))
    assert read_region("alps", f"{path}#name=Park #3").area == 2


def test_a_name_of_a_file_may_have_a_hash_sign(tmp_path: Path) -> None:
    path = tmp_path / "tour #1=2.geojson"
    path.write_text(json.dumps(SQUARE))
    assert read_region("alps", path).area == 2
    (tmp_path / "one.geojson").write_text(json.dumps(SQUARE))
    with pytest.raises(RegionError, match="is not a FeatureCollection"):
        read_region("alps", f"{tmp_path}/one.geojson#a=b")


# -- Bounding boxes -------------------------------------------------------------------------------


def test_a_bounding_box_is_a_region() -> None:
    regions = read_regions({"box": [10, 40, 12, 41], "fiji": [177, -20, -178, -15]})
    assert regions["box"].equals(shapely.box(10, 40, 12, 41))
    sides = shapely.union(shapely.box(177, -20, 180, -15), shapely.box(-180, -20, -178, -15))
    assert regions["fiji"].equals(sides)
    assert read_regions({"a": [170, 0, -180, 1]})["a"].equals(shapely.box(170, 0, 180, 1))
    assert read_regions({"pacific": [70, -60, -60, 60]})["pacific"].area == (110 + 120) * 120


def test_a_bounding_box_whose_west_and_east_are_swapped_is_refused() -> None:
    with pytest.raises(RegionError, match="are west and east swapped"):
        read_regions({"box": [18.6, 43, 17.5, 43.9]})


@pytest.mark.parametrize(
    "bounds", [[10, 41, 12, 40], [10, 40, 10, 41], [10, 40, 190, 41], [10, -91, 12, 41]]
)
def test_a_bounding_box_without_area_or_off_the_globe_is_refused(bounds: list) -> None:
    with pytest.raises(RegionError, match=r"allowed is \[west, south, east, north\]"):
        read_regions({"box": bounds})


# -- Self-intersections ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ring",
    [
        # A vertex that is passed twice, where a loop touches the outline
        [[0, 0], [4, 0], [4, 4], [2, 0], [0, 4], [0, 0]],
        # An edge that is gone out and back again
        [[0, 0], [4, 0], [4, 4], [6, 4], [4, 4], [0, 4], [0, 0]],
        # A loop of a few metres, as a slip of the mouse makes
        [[0, 0], [4, 0], [4, 4], [2, 4], [1.999, 4.001], [2.001, 4.001], [2, 4], [0, 4], [0, 0]],
        [[0, 0], [4, 0], [4, 0], [4, 4], [0, 4], [0, 0]],
    ],
    ids=["touch", "spike", "slip", "repeated"],
)
def test_what_can_be_repaired_is(read: Read, ring: list) -> None:
    region = read(polygon(ring))
    assert region.is_valid
    assert region.geom_type in ("Polygon", "MultiPolygon")
    drawn = abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))) / 2
    assert region.area == pytest.approx(drawn, rel=1e-3)


@pytest.mark.parametrize(
    "ring",
    [
        [[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]],
        [[0, 0], [9, 0], [9, 9], [4, -1], [3, 9], [0, 9], [0, 0]],
        RING[:-1] * 2 + RING[:1],
    ],
    ids=["bow-tie", "crossing", "twice-around"],
)
def test_what_cannot_be_repaired_is_refused(read: Read, ring: list) -> None:
    assert "intersects itself" in refused(read, polygon(ring))
    collection = [feature(SQUARE), feature(polygon(ring))]
    assert "redraw" in refused(read, {"type": "FeatureCollection", "features": collection})


# -- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "is not JSON"),
        ("POLYGON((10 40, 12 40, 12 41, 10 40))", "is not JSON"),
        (json.dumps(SQUARE)[:-3], "is not JSON"),
        ({}, "its type is None; allowed: Polygon, MultiPolygon, Feature, FeatureCollection"),
        ([SQUARE], "its type is None; allowed: Polygon"),
        (None, "its type is None; allowed: Polygon"),
        ({"type": "Topology", "objects": {}}, "its type is 'Topology'; allowed: Polygon"),
        ({"type": "FeatureCollection", "features": [None]}, "its type is None; allowed: Polygon"),
        ({"type": "Polygon"}, "its Polygon cannot be read"),
        (polygon([[0, 0], [1, 1]]), "its Polygon cannot be read"),
        ({"type": "Polygon", "coordinates": RING}, "its Polygon cannot be read"),
        (polygon([["a", 0], [1, 0], [1, 1], ["a", 0]]), "its Polygon cannot be read"),
        (polygon([[0, 0], [1, None], [1, 1], [0, 0]]), "its Polygon cannot be read"),
        ({"type": "Feature"}, "its Feature cannot be read"),
        ({"type": "FeatureCollection", "features": None}, "its FeatureCollection cannot be read"),
        (POINT, "no Polygon or MultiPolygon"),
        (feature({"type": "LineString", "coordinates": RING}), "no Polygon or MultiPolygon"),
        (feature(None), "no Polygon or MultiPolygon"),
        ({"type": "FeatureCollection", "features": []}, "no Polygon or MultiPolygon"),
        ({"type": "MultiPolygon", "coordinates": []}, "no Polygon or MultiPolygon"),
        (polygon(), "is empty"),
        (polygon([[0, 0], [1, 1], [2, 2], [0, 0]]), "is empty: its polygons have no area"),
        (polygon([[0, 0], [10**400, 0], [1, 1], [0, 0]]), "its Polygon cannot be read"),
        (
            '{"type": "GeometryCollection", "geometries": [' * 100 + "]}" * 100,
            "no Polygon or MultiPolygon",
        ),
    ],
)
def test_what_holds_no_polygon_is_refused(read: Read, document: Any, said: str) -> None:
    # A document of None is the JSON text null.
    assert said in refused(read, "null" if document is None else document)


@pytest.mark.parametrize("begin", ["[", '{"type": "Feature", "geometry": '])
@pytest.mark.parametrize("closed", [True, False])
def test_what_is_nested_too_deep_is_refused(read: Read, begin: str, closed: bool) -> None:
    """Python's versions differ in how deep JSON may be."""
    end = "]" if begin == "[" else "}"
    text = refused(read, begin * 20_000 + ("null" + end * 20_000 if closed else ""))
    said = ("is nested too deep", "is not JSON", "its type is None", "no Polygon")
    assert any(words in text for words in said)


@pytest.mark.parametrize(
    ("point", "shown"),
    [
        ([500_000, 5_000_000], "(500000, 5e+06)"),
        ([10.0001, 90.01], "(10.0001, 90.01)"),
        ([180.01, 40], "(180.01, 40)"),
        ([-180.01, 40], "(-180.01, 40)"),
        ([10, -90.01], "(10, -90.01)"),
        ([41, 100], "(41, 100)"),
        ([float("inf"), 40], "(inf, 40)"),
        pytest.param(
            [float("nan"), 40], "(nan, 40)", marks=pytest.mark.filterwarnings("ignore:invalid")
        ),
    ],
)
@pytest.mark.parametrize("in_a_hole", [False, True])
def test_coordinates_outside_the_world_are_refused_with_the_usual_cause(
    read: Read, point: list, shown: str, in_a_hole: bool
) -> None:
    ring = [RING[0], point, *RING[2:]]
    text = refused(read, polygon(RING, ring) if in_a_hole else polygon(ring))
    assert f"has the coordinate {shown}; allowed are longitudes from -180 to 180" in text
    assert "projected or swapped coordinates are the usual cause" in text


def test_a_file_that_is_missing_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match=r"gone\.geojson\): there is no such file; check"):
        read_region("alps", tmp_path / "gone.geojson")
    with pytest.raises(RegionError, match=r"cannot be read \(Is a directory\)\.$"):
        read_region("alps", tmp_path)
    (tmp_path / "a.geojson").write_bytes(json.dumps(feature(SQUARE)).encode("utf-16"))
    with pytest.raises(RegionError, match=r"is not JSON .*; export the polygon as GeoJSON\.$"):
        read_region("alps", tmp_path / "a.geojson")
