"""The STAC catalog: what it says of files, as pystac reads it."""

import json
from pathlib import Path
from typing import Any

import pystac
import pytest
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from shapely.geometry import MultiPolygon, Polygon, box, mapping

from basemake.build.paths import RESULTS
from basemake.build.records import MadeOf, Record
from build_stac import About, Footprint, Region, build_stac

ABOUT = About("Mosaic, 2025Q3", "© Søren", "2025Q3", [{"step": "gain", "factor": 2.5}], "0.2.0")
FIJI = MultiPolygon([box(179, -18, 180, -17), box(-180, -18, -179, -17)])
ADDRESS = "https://stac.example.org/items/{}"
GRID = {"shape": [300, 200], "transform": [500_000.0, 10.0, 0.0, 8_000_000.0, 0.0, -10.0]}
TILES = {
    "60KXF_0_0": Footprint(
        mapping(FIJI), 32760, 10, [("a", ADDRESS.format("a")), ("b", ADDRESS.format("b"))]
    ),
    "01KAB_0_0": Footprint(mapping(box(-179.5, -18, -178, -17)), 32701, None, [("c", None)]),
}
REGIONS = {"fiji": Region(mapping(FIJI), [*TILES]), "west": Region(mapping(FIJI), ["60KXF_0_0"])}


def record(size: int, **known: Any) -> Record:
    return Record(MadeOf({}, {}, []), 1, size, f"{size:064x}", known=known)


FILES = {
    RESULTS / "tiles/60KXF_0_0.tif": record(1, **GRID, items=["a", "b"], shares=[1.0, 0.0]),
    RESULTS / "tiles/60KXF_0_0.provenance.tif": record(2, **GRID),
    RESULTS / "tiles/01KAB_0_0.tif": record(3, **GRID),
    RESULTS / "pyramid/fiji.pmtiles": record(4),
    RESULTS / "pyramid/fiji.mbtiles": record(5),
    RESULTS / "pyramid/fiji.tif": record(6, **GRID),
    RESULTS / "mosaic/fiji.vrt": record(7),
    RESULTS / "pyramid/west.pmtiles": record(8),
}


def written(output: Path, **changes: Any) -> pystac.Catalog:
    build_stac(
        output, **{"about": ABOUT, "tiles": TILES, "regions": REGIONS, "files": FILES} | changes
    )
    return pystac.Catalog.from_file(str(output / "catalog.json"))


@pytest.fixture
def catalog(tmp_path: Path) -> pystac.Catalog:
    return written(tmp_path / "results/stac")


def item_of(catalog: pystac.Catalog, collection: str, name: str) -> pystac.Item:
    child = catalog.get_child(collection)
    assert child is not None
    item = child.get_item(name)
    assert item is not None
    return item


def addresses(item: pystac.Item) -> list[str]:
    return [str(link.target) for link in item.links if link.rel == "derived_from"]


def test_each_file_follows_the_specification_and_names_no_path_of_this_machine(
    catalog: pystac.Catalog, tmp_path: Path
) -> None:
    """The core's schemas come with pystac; those of extensions are on the web only."""
    validator = JsonSchemaSTACValidator()
    paths = sorted((tmp_path / "results/stac").rglob("*.json"))
    for path in paths:
        text = path.read_text()
        assert str(tmp_path) not in text
        document = json.loads(text)
        kind = pystac.STACObjectType(document["type"])
        validator.validate_core(document, kind, document["stac_version"])
        for link in document["links"]:
            if not link["href"].startswith("https://"):
                assert (path.parent / link["href"]).exists()
    names = [path.relative_to(tmp_path / "results/stac").as_posix() for path in paths]
    assert names == [
        "catalog.json",
        *(f"maps/{name}.json" for name in ("collection", "fiji", "west")),
        *(f"tiles/{name}.json" for name in ("01KAB_0_0", "60KXF_0_0", "collection")),
    ]


@pytest.mark.parametrize("name", ["alps#2", "what?", "a;b", "a%41"])
def test_a_catalog_goes_into_its_folder_whatever_characters_its_path_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of a path as an address, what is behind # ? and ; would not be part."""
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    build_stac(RESULTS / "stac", ABOUT, TILES, REGIONS, FILES)
    folders = {path.parent.relative_to(tmp_path) for path in tmp_path.rglob("*.json")}
    stac = Path(name, "results/stac")
    assert folders == {stac, stac / "maps", stac / "tiles"}


def test_files_are_found_with_their_checksums(catalog: pystac.Catalog, tmp_path: Path) -> None:
    found = {}
    for item in catalog.get_items(recursive=True):
        for asset in item.assets.values():
            stated = FileExtension.ext(asset)
            path = Path(asset.get_absolute_href() or "").relative_to(tmp_path)
            found[path] = stated.size, stated.checksum
    assert found == {path: (file.size, f"1220{file.sha256}") for path, file in FILES.items()}


def test_a_tile_has_its_place_bands_recipe_and_the_items_that_it_shows(
    catalog: pystac.Catalog,
) -> None:
    item = item_of(catalog, "tiles", "60KXF_0_0")
    assert item.bbox == [179, -18, -179, -17]  # across 180 degrees
    projection = ProjectionExtension.ext(item)
    assert projection.code == "EPSG:32760"
    assert projection.shape == GRID["shape"]
    assert projection.transform == [10, 0, 500_000, 0, -10, 8_000_000]
    bands = RasterExtension.ext(item.assets["image"]).bands or []
    assert [(band.data_type, band.spatial_resolution) for band in bands] == [("uint8", 10)] * 4
    names = [band["name"] for band in item.assets["image"].extra_fields["bands"]]
    assert names == ["red", "green", "blue", "alpha"]
    (ranks,) = RasterExtension.ext(item.assets["provenance"]).bands or []
    assert ranks.nodata == 0
    assert addresses(item) == [ADDRESS.format("a")]  # nothing of b shows
    assert item.properties["attribution"] == ABOUT.attribution
    assert item.properties["processing:software"] == {"basemake": "0.2.0"}
    assert item.properties["processing:expression"]["expression"] == ABOUT.recipe
    span = item.common_metadata.start_datetime, item.common_metadata.end_datetime
    assert [str(moment) for moment in span] == [
        "2025-07-01 00:00:00+00:00",
        "2025-09-30 23:59:59+00:00",
    ]
    assert "gsd" not in item_of(catalog, "tiles", "01KAB_0_0").properties
    assert not addresses(item_of(catalog, "tiles", "01KAB_0_0"))  # whose address is not known


@pytest.mark.parametrize(
    ("holes", "shares", "names"),
    [
        ([0, 9], [0.999999, 0.0], ["a"]),  # which is 1, but for its last decimal
        ([0, 9], [0.75, 0.0], ["a", "b"]),  # what masks hide may be of each
        ([9, 9], [0.0, 0.0], []),
    ],
)
def test_a_tile_is_derived_from_the_items_that_it_shows(
    tmp_path: Path, holes: list[int], shares: list[float], names: list[str]
) -> None:
    shown = {"holes": holes, "items": ["a", "b"], "shares": shares}
    files = FILES | {RESULTS / "tiles/60KXF_0_0.tif": record(1, **GRID, **shown)}
    item = item_of(written(tmp_path / "results/stac", files=files), "tiles", "60KXF_0_0")
    assert addresses(item) == [ADDRESS.format(name) for name in names]


@pytest.mark.parametrize(
    ("parts", "bbox"),
    [
        ([box(17, 43, 19, 44)], [17, -18, -179, 44]),  # in the east, far from 180 degrees
        ([box(-19, 43, -17, 44)], [179, -18, -17, 44]),
        ([box(170, -9, 171, -8), box(-172, -9, -170, -8)], [170, -18, -170, -8]),
        ([box(-180, -9, 0, -8), box(0, -9, 180, -8)], [-180, -18, 180, -8]),  # all around
    ],
)
def test_a_bounding_box_across_180_degrees_contains_all_parts(
    tmp_path: Path, parts: list[Polygon], bbox: list[float]
) -> None:
    islands = Region(mapping(MultiPolygon([*FIJI.geoms, *parts])), [])
    apart = {f"part{number}": Region(mapping(part), []) for number, part in enumerate(parts)}
    regions = {"fiji": REGIONS["fiji"], "islands": islands}
    catalog = written(tmp_path / "results/stac", regions=regions)
    assert item_of(catalog, "maps", "islands").bbox == bbox
    catalog = written(tmp_path / "other/stac", regions={"fiji": REGIONS["fiji"], **apart})
    maps = catalog.get_child("maps")
    assert isinstance(maps, pystac.Collection)
    assert maps.extent.spatial.bboxes == [bbox]


def test_a_map_is_made_of_the_tiles_or_else_of_their_items(
    catalog: pystac.Catalog, tmp_path: Path
) -> None:
    fiji = item_of(catalog, "maps", "fiji")
    assert {*fiji.assets} == {"pmtiles", "mbtiles", "cog", "mosaic"}
    assert ProjectionExtension.ext(fiji.assets["cog"]).code == "EPSG:3857"
    folder = Path(fiji.self_href).parent
    for name, address in zip(TILES, addresses(fiji), strict=True):
        assert pystac.Item.from_file(str(folder / address)).id == name

    kept = {path: file for path, file in FILES.items() if path.parent.name == "pyramid"}
    without = written(tmp_path / "other/stac", files=kept)
    assert [child.id for child in without.get_children()] == ["maps"]
    assert addresses(item_of(without, "maps", "fiji")) == [ADDRESS.format(x) for x in "ab"]


def test_an_old_catalog_is_replaced_as_a_whole(catalog: pystac.Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "results/stac"
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    one = {"60KXF_0_0": TILES["60KXF_0_0"]}
    regions = {"west": REGIONS["west"]}
    written(tmp_path / "again/stac", tiles=one, regions=regions)
    assert {path.name for path in (tmp_path / "again/stac/tiles").iterdir()} == {
        "60KXF_0_0.json",
        "collection.json",
    }
    written(tmp_path / "same/stac")
    for path, content in before.items():
        assert (tmp_path / "same/stac" / path.relative_to(folder)).read_bytes() == content


def test_after_a_failure_there_is_no_part_of_a_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("build_stac.json.dumps", lambda *_, **__: 1 / 0)
    tmp_path.joinpath("results").mkdir()
    with pytest.raises(ZeroDivisionError):
        written(tmp_path / "results/stac")
    assert list((tmp_path / "results").iterdir()) == []
