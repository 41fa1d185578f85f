"""The shipped sources, each as it is but for its hosts, which are a server on loopback.

Genuine answers of the services are replayed where real data lies beside the checkout; records
written here in their form go all the way to downloaded bands, with the credentials they need.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import shapely
import yaml
from shapely.geometry import mapping, shape

from basemake.build.config import read_source
from basemake.build.manifest import dn_reading
from basemake.build.quarter import Quarter
from basemake.build.source import Source
from basemake.errors import BandError, ManifestError
from basemake.web.credentials import access_to
from basemake.web.download import Promised
from search_items import search_items
from servers import S3Keys, SasTokens, StacServer, Tokens, redirect
from servers.auth import TOKEN_PATH
from sources import fetch_band

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = CHECKOUT / "config" / "sources"
APIS = ["cdse", "cdse-https", "cdse-s3", "earth-search", "landsat", "planetary-computer"]


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[StacServer]:
    with StacServer() as server:
        yield server


def local(name: str, server: StacServer) -> Source:
    """A shipped source whose hosts are the server, and which is patient for seconds only."""
    text = (SOURCES / f"{name}.yaml").read_text()
    document = yaml.safe_load(text)
    hosts = {urlsplit(address).netloc for address in re.findall(r"https://[^\s/]+", text)}
    hosts |= {*document.get("hosts", []), *document.get("credentials", {}).get("hosts", [])}
    for host in sorted(hosts, key=len, reverse=True):
        text = text.replace(f"https://{host}", server.url).replace(host, server.host)
    assert "https://" not in text
    document = yaml.safe_load(text)
    for holder in (document, document.get("credentials", {})):
        if "hosts" in holder:
            holder["hosts"] = sorted(set(holder["hosts"]))
    if "credentials" in document:
        document["credentials"]["plain_http"] = True
    document["limits"] |= {"patience_seconds": 3, "longest_wait_seconds": 0.05}
    document["limits"]["requests_per_minute"] = 60_000
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(document))
    return read_source(str(path))


def search(source: Source, quarter: str, region: Any) -> dict[str, dict]:
    """Search, and return tile -> properties as the manifest has them."""
    path = Path("manifest.geojson")
    search_items(source, Quarter.parse(quarter), {"here": region}, path)
    return {f["id"]: f["properties"] for f in json.loads(path.read_text())["features"]}


def fetch(source: Source, band: dict) -> bytes:
    """Fetch a band as its job does."""
    output = Path("band.tif")
    fetch_band(
        band["href"],
        output,
        Promised(band["size"], band["checksum"], source.dn["dtype"]),
        access_to(source),
    )
    return output.read_bytes()


def offset(source: Source, row: dict) -> float:
    return dn_reading(source.dn, row["dn"]).offset


# -- What they say --------------------------------------------------------------------------------


def test_these_are_all_that_are_shipped() -> None:
    assert sorted(path.stem for path in SOURCES.glob("*.yaml")) == sorted([*APIS, "simulated"])


@pytest.mark.parametrize("name", APIS)
def test_a_source_is_whole(name: str) -> None:
    source = read_source(name)
    assert source.url.startswith("https://")
    assert source.limits.connections <= 8
    assert source.limits.requests_per_minute <= 2000
    assert "{year}" in source.attribution
    for host in (source.credentials or {}).get("hosts", []):
        assert host in source.hosts
    text = (SOURCES / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    for variable in (source.credentials or {}).get("variables", {}).values():
        assert text.count(variable) >= 2  # where it is used, and in what the user reads


@pytest.mark.parametrize("name", ["cdse", "cdse-s3", "cdse-https"])
def test_the_copernicus_sources_stay_within_a_users_quota(name: str) -> None:
    limits = read_source(name).limits
    assert limits.connections <= 4
    assert limits.requests_per_minute <= 2000


# -- Records in their form, to the last byte ------------------------------------------------------


@pytest.fixture(scope="module")
def content(write_geotiff, tmp_path_factory) -> dict[str, bytes]:
    """A band by its data type."""
    folder = tmp_path_factory.mktemp("content")
    return {
        kind: write_geotiff(
            folder / f"{kind}.tif", np.arange(2000, dtype=kind).reshape(40, 50)
        ).read_bytes()
        for kind in ("int16", "uint16")
    }


def record(item_id: str, collection: str, assets: dict[str, dict], **properties: Any) -> dict:
    geometry = mapping(shapely.box(9, 45, 10, 46))
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": item_id,
        "collection": collection,
        "properties": {"datetime": "2025-07-20T10:10:31.024000Z", **properties},
        "geometry": geometry,
        "bbox": [9, 45, 10, 46],
        "links": [],
        "assets": assets,
    }


def mosaic(server: StacServer, size: int) -> dict:
    item_id = "Sentinel-2_mosaic_2025_Q3_32TNR_0_0"
    folder = f"Global-Mosaics/Sentinel-2/S2MSI_L3__MCQ/2025/07/01/{item_id}"
    nodes = f"/odata/v1/Products(0ab)/Nodes({item_id})/Nodes"
    assets = {
        band: {
            "href": f"s3://eodata/{folder}/{band}.tif",
            "alternate": {"https": {"href": f"{server.url}{nodes}({band}.tif)/$value"}},
            "file:size": size,
        }
        for band in ("B02", "B03", "B04", "B08")
    }
    times = {"datetime": "2025-07-01T00:00:00Z", "start_datetime": "2025-07-01T00:00:00Z"}
    times |= {"end_datetime": "2025-09-30T23:59:59Z", "proj:code": "EPSG:32632", "gsd": 10}
    return record(item_id, "sentinel-2-global-mosaics", assets, **times)


REGION = shapely.box(9.4, 45.4, 9.6, 45.6)


def test_cdse_takes_bands_from_the_open_mirror(server: StacServer, content: dict) -> None:
    folder = "/tge-labs/sentinel-2-quarterly-cloudless-mosaics/2025/Q3/32TNR_0_0"
    server.items = [mosaic(server, len(content["int16"]))]
    for band in ("B02", "B03", "B04"):
        server.files[f"{folder}/{band}.tif"] = content["int16"]
    source = local("cdse", server)
    (row,) = search(source, "2025Q3", REGION).values()
    assert (row["tile"], row["epsg"], row["gsd"]) == ("32TNR_0_0", 32632, 10)
    for band in row["bands"].values():
        assert fetch(source, band) == content["int16"]
    assert len(server.asked(f"{folder}/B04.tif")) == 1
    assert not [asked for asked in server.log if "authorization" in asked.headers]


def test_cdse_s3_takes_bands_with_the_users_keys(
    server: StacServer, content: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = S3Keys(region="default")
    server.protect("/eodata/", keys.allows, 403)
    item = mosaic(server, len(content["int16"]))
    server.items = [item]
    server.files["/" + item["assets"]["B04"]["href"].removeprefix("s3://")] = content["int16"]
    source = local("cdse-s3", server)
    (row,) = search(source, "2025Q3", REGION).values()  # needs no keys
    assert row["bands"]["B04"]["href"] == item["assets"]["B04"]["href"]
    monkeypatch.setenv("CDSE_S3_ACCESS_KEY", keys.access_key)
    monkeypatch.setenv("CDSE_S3_SECRET_KEY", keys.secret_key)
    assert fetch(source, row["bands"]["B04"]) == content["int16"]
    assert keys.refusals == []
    assert not [s for s in keys.secrets if s in Path("manifest.geojson").read_text()]


def test_cdse_https_takes_bands_with_a_token(
    server: StacServer, content: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zipper host redirects to the download host; both may see the token."""
    tokens = Tokens(server)
    server.protect("/odata/", tokens.allows)
    item = mosaic(server, len(content["int16"]))
    server.items = [item]
    href = item["assets"]["B04"]["alternate"]["https"]["href"]
    final = "/odata/v1/final/B04.tif"
    server.files[final] = content["int16"]
    server.always(urlsplit(href).path, redirect(server.url + final))
    source = local("cdse-https", server)
    assert source.credentials["token_url"] == server.url + TOKEN_PATH
    (row,) = search(source, "2025Q3", REGION).values()  # needs no login
    assert tokens.logins == 0
    assert row["bands"]["B04"]["href"] == href
    monkeypatch.setenv("CDSE_USER", tokens.user)
    monkeypatch.setenv("CDSE_PASSWORD", tokens.password)
    for _ in range(3):
        assert fetch(source, row["bands"]["B04"]) == content["int16"]
    assert (tokens.logins, tokens.refreshes, tokens.refusals) == (1, 0, 0)
    assert not [s for s in tokens.secrets if s in Path("manifest.geojson").read_text()]


def test_earth_search_takes_open_scenes(server: StacServer, content: dict) -> None:
    def scene(day: str, cloud: float, **properties: Any) -> dict:
        folder = f"/sentinel-s2-l2a-cogs/32/T/NR/2025/8/S2A_32TNR_202508{day}_0_L2A"
        assets = {}
        for key, name in (("red", "B04"), ("green", "B03"), ("blue", "B02")):
            grid = [10, 0, 499980, 0, -10, 5100000]
            bands = [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]
            href = f"{server.url}{folder}/{name}.tif"
            assets[key] = {"href": href, "proj:transform": grid, "raster:bands": bands}
            server.files[f"{folder}/{name}.tif"] = content["uint16"]
        item_id = f"S2A_32TNR_202508{day}_0_L2A"
        properties |= {"datetime": f"2025-08-{day}T10:00:00Z", "eo:cloud_cover": cloud}
        return record(item_id, "sentinel-2-l2a", assets, **{"proj:epsg": 32632, **properties})

    applied = {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.11"}
    server.items = [scene("03", 20, **applied), scene("05", 1.5, **applied), scene("01", 1.5)]
    source = local("earth-search", server)
    (row,) = search(source, "2025Q3", REGION).values()
    assert (row["tile"], row["item"]) == ("32TNR", "S2A_32TNR_20250805_0_L2A")
    assert (row["epsg"], row["gsd"], offset(source, row)) == (32632, 10, 0.0)
    assert fetch(source, row["bands"]["red"]) == content["uint16"]


@pytest.mark.parametrize("name", ["planetary-computer", "landsat"])
def test_the_planetary_computer_signs_addresses(
    server: StacServer, content: dict, name: str
) -> None:
    tokens = SasTokens(server)
    server.protect("/data/", tokens.allows, 403)
    source = local(name, server)
    scenes = {
        "planetary-computer": "S2A_MSIL2A_20250720T101031_R022_T32TNR_20250720T160000",
        "landsat": "LC08_L2SP_193028_20250720_02_T1",
    }
    assets = {
        key: {"href": f"{server.url}/data/{key}.tif", "gsd": 10} for key in source.bands.values()
    }
    properties = {"proj:epsg": 32632, "eo:cloud_cover": 3, "s2:processing_baseline": "05.11"}
    properties["platform"] = "landsat-8"  # which only one of the sources looks at
    server.items = [record(scenes[name], source.collection, assets, **properties)]
    server.files |= {f"/data/{key}.tif": content["uint16"] for key in assets}
    (row,) = search(source, "2025Q3", REGION).values()
    assert row["tile"] == {"planetary-computer": "32TNR", "landsat": "193028"}[name]
    assert tokens.issued == 0
    for band in row["bands"].values():
        assert "?" not in band["href"]
        assert fetch(source, band) == content["uint16"]
    assert tokens.issued == 1
    assert server.asked(f"/api/sas/v1/token/{source.collection}")
    text = Path("manifest.geojson").read_text()
    assert not [secret for secret in tokens.secrets if secret in text]


@pytest.mark.parametrize(
    ("baseline", "expected"), [("02.12", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.10", -0.1)]
)
def test_the_planetary_computers_offset_follows_the_baseline(
    baseline: str, expected: float
) -> None:
    source = read_source("planetary-computer")
    assert dn_reading(source.dn, {"s2:processing_baseline": baseline}).offset == expected


# -- Genuine answers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(real_data: Path) -> Path:
    return real_data / "stac" / "pages"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def whereabouts(items: list[dict]) -> Any:
    """A region that the items cover."""
    return shapely.union_all([shape(item["geometry"]).buffer(-0.02) for item in items])


def test_genuine_mosaics_of_copernicus(server: StacServer, pages: Path) -> None:
    """Four records as their generator writes them, behind the genuine landing page."""
    items = [read(path) for path in sorted((pages.parent / "cdse_items").glob("*2024_Q1*.json"))]
    landing = read(pages / "cdse_v1_landing.json")
    for name in ("cdse", "cdse-s3", "cdse-https"):
        collection = {"type": "FeatureCollection", "numberReturned": len(items), "links": []}
        hosts = ("https://stac.dataspace.copernicus.eu", "https://zipper.dataspace.copernicus.eu")
        server.replay([{**collection, "features": items}], *hosts, landing=landing)
        source = local(name, server)
        found = search(source, "2024Q1", whereabouts(items))
        assert set(found) == {"17RLM_0_0", "53MKS_0_0", "53UNV_0_0", "54GXU_0_0"}
        row = found["17RLM_0_0"]
        assert (row["epsg"], row["gsd"]) == (32617, 10)
        band = row["bands"]["B04"]
        assert band["size"] == 168782100
        assert {
            "cdse": "/2024/Q1/17RLM_0_0/B04.tif",
            "cdse-s3": "s3://eodata/Global-Mosaics/Sentinel-2/S2MSI_L3__MCQ/2024/01/01/",
            "cdse-https": "/odata/v1/Products(00f85bcb-",
        }[name] in band["href"]
        assert server.searches()[-1]["collections"] == ["sentinel-2-global-mosaics"]


def test_a_genuine_answer_of_copernicus(server: StacServer, pages: Path) -> None:
    """Of 2023: it has no numberMatched, and proj:code in the assets only."""
    answer = read(pages / "cdse_v1_search_global-mosaics.json")
    server.replay([answer], "https://stac.dataspace.copernicus.eu")
    found = search(local("cdse", server), "2023Q1", whereabouts(answer["features"]))
    assert found["31SDV_0_0"]["epsg"] == 32631
    assert found["31SDV_0_0"]["bands"]["B04"]["size"] == 185948699


def test_a_genuine_answer_of_earth_search(server: StacServer, pages: Path) -> None:
    """Two collections were asked for there: only the source's own may count."""
    answer = read(pages / "earthsearch_v1_s2l2a_and_landsat_p1.json")
    last = read(pages / "earthsearch_v1_empty_lastpage.json")
    hosts = [
        "https://earth-search.aws.element84.com",
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com",
    ]
    answer["features"] = [f for f in answer["features"] if f["collection"] == "sentinel-2-l2a"]
    answer["context"]["matched"] = answer["numberMatched"] = 1
    last["context"]["matched"] = last["numberMatched"] = 1
    server.replay([answer, last], *hosts)
    source = local("earth-search", server)
    found = search(source, "2023Q4", whereabouts(answer["features"]))
    assert set(found) == {"13TDE"}
    assert (found["13TDE"]["epsg"], found["13TDE"]["gsd"]) == (32613, 10)
    assert offset(source, found["13TDE"]) == 0.0
    searches = server.searches()
    assert len(searches) == 2  # the full page carries `next`, to a page that is empty
    assert "LC08_L2SP_033032" in searches[1]["next"]


def test_genuine_scenes_of_the_planetary_computer(server: StacServer, pages: Path) -> None:
    answer = read(pages / "pc_sentinel2_l2a_33items.json")
    hosts = [
        "https://planetarycomputer.microsoft.com",
        "https://sentinel2l2a01.blob.core.windows.net",
    ]
    server.replay([answer], *hosts)
    source = local("planetary-computer", server)
    items = [item for item in answer["features"] if shape(item["geometry"]).bounds[0] > 170]
    found = search(source, "2019Q1", whereabouts(items))
    assert found
    assert set(found) <= {item["properties"]["s2:mgrs_tile"] for item in answer["features"]}
    for row in found.values():
        assert offset(source, row) == 0.0  # baseline 02.12
        assert row["gsd"] == 10


def test_genuine_scenes_of_landsat(server: StacServer, pages: Path) -> None:
    answer = read(pages / "pc_landsat_c2_l2_items_p1.json")
    next_link = [link for link in answer["links"] if link["rel"] == "next"]
    assert next_link[0]["method"] == "GET"
    hosts = [
        "https://planetarycomputer.microsoft.com",
        "https://landsateuwest.blob.core.windows.net",
    ]
    server.replay([answer], *hosts)
    source = local("landsat", server)
    found = search(source, "2025Q3", whereabouts(answer["features"]))
    assert found
    for tile, row in found.items():
        assert f"_{tile}_" in row["item"]
        assert row["gsd"] == 30
        assert set(row["bands"]) == {"red", "green", "blue"}
    assert len(server.asked(method="GET")) >= 2


def test_scenes_of_another_host_are_refused(server: StacServer, content: dict) -> None:
    item = mosaic(server, 10)
    item["assets"]["B04"]["alternate"]["https"]["href"] = "https://evil.example/B04.tif"
    server.items = [item]
    with pytest.raises(ManifestError, match=re.escape("evil.example")):
        search(local("cdse-https", server), "2025Q3", REGION)


def test_a_band_that_is_not_there_is_named(server: StacServer) -> None:
    server.items = [mosaic(server, 10)]
    source = local("cdse", server)
    (row,) = search(source, "2025Q3", REGION).values()
    with pytest.raises(BandError, match="404") as caught:
        fetch(source, row["bands"]["B04"])
    assert unquote(row["bands"]["B04"]["href"]) in str(caught.value)
