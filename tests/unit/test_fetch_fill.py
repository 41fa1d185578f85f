"""Bands of further items: which are fetched, and what makes them stale."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from osgeo import gdal
from shapely import Polygon

from basemake.build.bands import Asked, Known, Need, settings_together
from basemake.build.records import made_of, write_record
from basemake.fetch.filling import Fill
from basemake.fetch.old import keep_old
from basemake.fetch.wanted import Wanted
from basemake.pixels.dn import MaskRule
from basemake.pixels.fill import is_empty
from basemake.web.download import Promised
from fetch_bands import fetch_bands, tidy
from sources import access

NODATA = -32768
RULE = MaskRule(invalid=[0, 9])
HOLE = np.s_[10:20, 10:20]


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_geotiff):
    """A function that writes an item, two bands and a mask, and returns what is wanted of it."""
    monkeypatch.chdir(tmp_path)
    Path("results/bands/T").mkdir(parents=True)

    def write(rank: int, hole: bool, cloud: bool) -> list[Wanted]:
        dn = np.full((64, 48), 1000 * rank, np.int16)
        scl = np.full((64, 48), 4, np.uint8)
        if hole:
            dn[HOLE] = NODATA
        if cloud:
            scl[HOLE] = 9
        files = {"B04": dn, "B03": dn, "SCL": scl}
        found = []
        for key, pixels in files.items():
            href = write_geotiff(tmp_path / f"item{rank}/{key}.tif", pixels)
            output = Path(f"results/bands/T/{key if rank == 1 else f'{key}.{rank}'}.tif")
            identity = {"href": str(href), "digest": None, "checksum": None}
            found.append(Wanted(str(href), output, Promised(), identity, is_mask=key == "SCL"))
        return found

    return write


def absent(rank: int) -> list[Wanted]:
    outputs = [Path(f"results/bands/T/{key}.{rank}.tif") for key in ("B04", "B03", "SCL")]
    return [Wanted("", output, Promised(), {}) for output in outputs]


def fetch(first: list[Wanted], *others: list[Wanted]) -> list[Known | None]:
    fill = Fill(others, NODATA, RULE)
    known = fetch_bands(first, access(), 1, fill)
    tidy([*first, *(band for item in others for band in item)])
    return known


def empty(rank: int) -> list[bool]:
    return [is_empty(Path(f"results/bands/T/{key}.{rank}.tif")) for key in ("B04", "B03", "SCL")]


def test_without_a_hole_no_file_is_read(wanted) -> None:
    second = [replace(band, href="/nowhere.tif") for band in wanted(2, False, False)]
    known = fetch(wanted(1, False, False), second, absent(3))
    assert known[3:] == [Known({}, 0)] * 6
    assert empty(2) == empty(3) == [True] * 3
    first, other = (gdal.Open(f"results/bands/T/B04{end}.tif") for end in ("", ".2"))
    assert other.GetGeoTransform() == first.GetGeoTransform()
    assert other.GetSpatialRef().IsSame(first.GetSpatialRef())
    assert (other.RasterXSize, other.RasterYSize) == (48, 64)


@pytest.mark.parametrize("kind", ["hole", "cloud"])
def test_a_hole_or_a_cloud_takes_the_next_item_and_no_more(wanted, kind: str) -> None:
    known = fetch(wanted(1, kind == "hole", kind == "cloud"), wanted(2, False, False), absent(3))
    assert empty(2) == [False] * 3
    assert (gdal.Open("results/bands/T/B03.2.tif").ReadAsArray() == 2000).all()
    assert known[6:] == [Known({}, 0)] * 3


def test_where_an_item_is_clouded_only_its_mask_is_read(wanted) -> None:
    second = [
        replace(band, href=band.href if band.is_mask else "/nowhere.tif")
        for band in wanted(2, False, True)
    ]
    known = fetch(wanted(1, True, False), second, absent(3), wanted(4, False, False))
    assert empty(2) == [True, True, False]
    assert [one and one.size for one in known[3:5]] == [0, 0]
    assert not any(one is None or one.unasked for one in known[3:6])
    assert known[6:9] == [None] * 3  # an item that may come some day
    assert empty(3) == [True] * 3
    assert empty(4) == [False] * 3


def test_what_masks_hide_is_read_where_no_item_has_data(wanted) -> None:
    second, third = wanted(2, False, True), wanted(3, True, True)
    known = fetch(wanted(1, True, False), second, third, absent(4))
    assert empty(2) == [False] * 3
    assert (gdal.Open("results/bands/T/B03.2.tif").ReadAsArray()[HOLE] == 2000).all()
    assert empty(3) == [True, True, False]  # as the second one has data there
    assert [one and one.size for one in known[6:8]] == [0, 0]
    # Where the first one has data, and be it a cloud, nothing else is needed.
    fetch(wanted(1, False, True), second, third, absent(4))
    assert empty(2) == empty(3) == [True, True, False]


def test_bands_are_found_by_their_identity_when_items_change_ranks(tmp_path, wanted) -> None:
    first, second = wanted(1, False, False), wanted(2, False, False)
    for band in (*first, *second):
        band.output.write_bytes(band.href.encode())
        identity = {**band.identity, "href": f"http://there{band.href}"}
        write_record(band.output, made_of({}, []), "log", asdict(Known(identity, 7)))
    swapped = [
        replace(
            new,
            href=f"http://there{old.href}",
            identity={**old.identity, "href": f"http://there{old.href}"},
        )
        for new, old in zip((*first, *second), (*second, *first), strict=True)
    ]
    keep_old(swapped)
    for band in swapped:
        assert band.beside(".old").read_text() == band.href.removeprefix("http://there")


def test_items_count_until_the_last_hole_is_filled() -> None:
    names = ("href", "digest", "size", "checksum", "updated")
    identities = {key: dict.fromkeys(names, key) for key in ("B04", "B04.2", "B04.3")}
    asked = {
        key: Asked(identity, None, rank)
        for rank, (key, identity) in enumerate(identities.items(), 1)
    }
    filled: dict[str, Known | None] = {
        "B04": Known(identities["B04"], 5),
        "B04.2": Known(identities["B04.2"], 3),
        "B04.3": Known({}, 0),
    }
    settings = settings_together(asked, filled, 32633, None)
    assert settings["href"].keys() == {"B04", "B04.2"}
    # So whatever comes after changes nothing,
    newer = {**asked, "B04.3": Asked(dict.fromkeys(names, "new"), None, 3)}
    assert settings_together(newer, filled, 32633, None) == settings
    assert settings_together(dict([*asked.items()][:2]), filled, 32633, None) == settings
    # but an item does that takes the place of one that filled, or comes where holes are left.
    newer = {**asked, "B04.2": Asked(dict.fromkeys(names, "new"), None, 2)}
    assert settings_together(newer, filled, 32633, None) != settings
    left = {**filled, "B04.3": None}
    before = settings_together(dict([*asked.items()][:2]), left, 32633, None)
    assert settings_together(asked, left, 32633, None) != before
    mask = {"asset": "SCL", "invalid": [0]}
    assert settings_together(asked, filled, 32633, mask) == {**settings, "mask": mask}


def test_an_item_that_fills_is_stale_where_another_part_of_it_is_needed() -> None:
    """Though the first one's part is the same, as it came whole, or has larger blocks."""
    identities = [dict.fromkeys(("href", "digest", "size", "checksum"), key) for key in "ab"]
    identities = [{**identity, "updated": None} for identity in identities]
    sides = [[100, 100, 10, 10], [50, 50, 10, 10]]
    transform = [500_000.0, 10.0, 0.0, 5_000_000.0, 0.0, -10.0]
    known: dict[str, Known | None] = {
        "B04": Known(identities[0], 5),
        "B04.2": Known(identities[1], 3, images=sides, transform=transform),
    }

    def settings(pixel: float, area: Polygon | None = None) -> dict:
        need = Need(pixel, area)
        asked = {
            key: Asked(identity, need, rank)
            for rank, (key, identity) in enumerate(zip(known, identities, strict=True), 1)
        }
        return settings_together(asked, known, 32633, None)

    assert settings(20.0) == settings(25.0) != settings(40.0)
    corner = shapely.box(15.0, 45.149, 15.001, 45.154)
    assert settings(20.0, corner) != settings(20.0)


def test_what_is_asked_is_the_same_by_way_of_json() -> None:
    asked = Asked({"href": "x"}, None, 2, True)
    assert Asked.from_json(asked.as_json()) == asked
