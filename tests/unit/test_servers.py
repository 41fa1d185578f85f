"""The servers that other tests trust: they are right until told otherwise, and then wrong so."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import requests
from botocore.config import Config
from pystac_client import Client

from servers import (
    Fault,
    FaultyServer,
    PatchedFile,
    S3Keys,
    SasTokens,
    StacServer,
    Tokens,
    changed,
    cut,
    garbled,
    http_date,
    no_ranges,
    redirect,
    reset,
    rustac_serve,
    s3_server,
    stall,
    status,
    trickle,
)

BODY = bytes(range(256)) * 800


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer({"/a.tif": BODY}) as server:
        yield server


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=5, allow_redirects=False)


def test_ranges_are_served_as_they_should_be(server: FaultyServer) -> None:
    url = f"{server.url}/a.tif"
    whole = get(url)
    tag = whole.headers["ETag"]
    assert (whole.status_code, whole.content) == (200, BODY)
    part = get(url, Range="bytes=1000-", **{"If-Range": tag})
    assert (part.status_code, part.content) == (206, BODY[1000:])
    assert part.headers["Content-Range"] == f"bytes 1000-{len(BODY) - 1}/{len(BODY)}"
    assert get(url, Range="bytes=5-9").content == BODY[5:10]
    assert get(url, Range="bytes=-9").content == BODY[-9:]
    assert get(url, Range="bytes=5-", **{"If-Range": '"other"'}).status_code == 200
    beyond = get(url, Range=f"bytes={len(BODY)}-")
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{len(BODY)}")
    assert get(f"{server.url}/b.tif").status_code == 404
    asked = server.asked("/a.tif")
    assert [a.status for a in asked] == [200, 206, 206, 206, 200, 416]
    assert [a.sent for a in asked[:3]] == [len(BODY), len(BODY) - 1000, 5]
    assert asked[1].range == "bytes=1000-"


def received(url: str) -> tuple[bytes, bool]:
    """What comes from an address, and whether it then breaks off."""
    got = b""
    with requests.get(url, stream=True, timeout=5) as answer:
        try:
            for piece in answer.iter_content(1000):
                got += piece
        except requests.RequestException:
            return got, True
    return got, False


@pytest.mark.parametrize("fault", [reset(70_000), cut(70_000), cut(70_000, "more")])
def test_a_broken_transfer_gives_what_came_before(server: FaultyServer, fault: Fault) -> None:
    url = server.script("/a.tif", fault)
    assert received(url) == (BODY[:70_000], True)
    assert received(url) == (BODY, False)


def test_faults_come_in_order(server: FaultyServer) -> None:
    server.script("/a.tif", status(429, 7), status(503), garbled(), cut(100, "sent"), no_ranges())
    url = server.script("/a.tif", redirect("http://127.0.0.1/x"), reset(-1), changed(b"new"))
    tag = f"{get(url).headers['Retry-After']}"
    assert tag == "7"
    assert get(url).status_code == 503
    other = get(url).content
    assert len(other) == len(BODY)
    assert other != BODY
    assert get(url).content == BODY[:100]
    assert get(url, Range="bytes=9-").status_code == 200
    assert get(url).headers["Location"] == "http://127.0.0.1/x"
    with pytest.raises(requests.ConnectionError):
        get(url)
    assert get(url).content == b"new"
    assert [asked.fault for asked in server.log].count("behave") == 0
    assert http_date(0).endswith("GMT")


def test_a_stall_lasts_and_a_trickle_flows(server: FaultyServer) -> None:
    url = server.script("/a.tif", stall(100))
    with requests.get(url, stream=True, timeout=0.2) as answer:
        assert next(answer.iter_content(100)) == BODY[:100]
        with pytest.raises(requests.ConnectionError):
            next(answer.iter_content(1))
    begin = time.monotonic()
    server.script("/a.tif", trickle(len(BODY) * 4))
    assert get(url).content == BODY
    assert 0.2 < time.monotonic() - begin < 2


def test_each_answer_has_its_latency(server: FaultyServer) -> None:
    server.latency = 0.2
    begin = time.monotonic()
    assert get(f"{server.url}/a.tif", Range="bytes=0-9").content == BODY[:10]
    assert get(f"{server.url}/b.tif").status_code == 404
    assert time.monotonic() - begin >= 0.4
    server.wait_until(lambda: all(asked.seconds is not None for asked in server.asked()))
    assert [asked.seconds >= 0.2 for asked in server.asked()] == [True, True]


def test_a_patched_file_is_served_and_the_file_stays(server: FaultyServer, tmp_path: Path) -> None:
    path = tmp_path / "b.tif"
    path.write_bytes(BODY)
    for number in range(3):
        server.files[f"/{number}.tif"] = PatchedFile(path, {10: b"%d" % number, 70_000: b"there"})
    for number in range(3):
        expected = BODY[:10] + b"%d" % number + BODY[11:70_000] + b"there" + BODY[70_005:]
        whole = get(f"{server.url}/{number}.tif")
        part = get(f"{server.url}/{number}.tif", Range="bytes=9-70002")
        assert whole.content == expected
        assert (part.status_code, part.content) == (206, expected[9:70_003])
        assert part.headers["ETag"] == whole.headers["ETag"]
    tags = {get(f"{server.url}/{number}.tif").headers["ETag"] for number in range(3)}
    assert len(tags) == 3
    assert path.read_bytes() == BODY


def test_random_faults_follow_from_their_seed(server: FaultyServer) -> None:
    def seen(seed: int) -> list[str]:
        server.log.clear()
        server._counts.clear()
        server.misbehave(seed, [status(429), status(503)], share=0.7, row=2)
        for _ in range(30):
            get(f"{server.url}/a.tif")
        return [asked.fault for asked in server.log]

    first = seen(1)
    assert first == seen(1) != seen(2)
    assert {"behave", "status 429", "status 503"} == set(first)
    runs = "".join("b" if fault == "behave" else "x" for fault in first)
    assert "xx" in runs
    assert "xxx" not in runs


def test_tokens_are_given_checked_and_expire(server: FaultyServer) -> None:
    tokens = Tokens(server, totp="123456")
    server.protect("/a.tif", tokens.allows)
    form = {"client_id": "cdse-public", "grant_type": "password", "username": tokens.user}
    form |= {"password": tokens.password, "totp": "123456"}
    assert requests.post(tokens.url, {**form, "totp": "1"}, timeout=5).status_code == 401
    given = requests.post(tokens.url, form, timeout=5).json()
    url = f"{server.url}/a.tif"
    assert get(url).status_code == 401
    assert get(url, Authorization=f"Bearer {given['access_token']}").content == BODY
    tokens.expire()
    assert get(url, Authorization=f"Bearer {given['access_token']}").status_code == 401
    form = {"client_id": "cdse-public", "grant_type": "refresh_token"}
    form["refresh_token"] = given["refresh_token"]
    again = requests.post(tokens.url, form, timeout=5).json()
    assert get(url, Authorization=f"Bearer {again['access_token']}").content == BODY
    assert (tokens.logins, tokens.refreshes, tokens.refusals) == (1, 1, 1)


def test_sas_tokens_sign_addresses(server: FaultyServer) -> None:
    tokens = SasTokens(server)
    server.protect("/a.tif", tokens.allows, 403)
    token = get(f"{tokens.url}/sentinel-2-l2a").json()["token"]
    assert get(f"{server.url}/a.tif?{token}").content == BODY
    assert get(f"{server.url}/a.tif?sig=x").status_code == 403


def test_s3_signatures_are_checked(server: FaultyServer) -> None:
    keys = S3Keys()
    server.files["/eodata/a b+c.tif"] = server.files["/eodata/a%20b%2Bc.tif"] = BODY
    server.protect("/eodata", keys.allows, 403)

    def sign(secret: str) -> str:
        client = boto3.client(
            "s3",
            endpoint_url=server.url,
            region_name="default",
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=secret,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        where = {"Bucket": "eodata", "Key": "a b+c.tif"}
        return client.generate_presigned_url("get_object", Params=where, ExpiresIn=60)

    assert get(sign(keys.secret_key), Range="bytes=7-").content == BODY[7:]
    assert get(sign("other")).status_code == 403
    assert keys.refusals == ["wrong signature"]


def items(count: int) -> list[dict]:
    """Items in a row along the equator, of two quarters by turns."""
    return [
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": f"item{n}",
            "collection": "c",
            "properties": {"datetime": f"2025-0{7 if n % 2 else 4}-01T00:00:00Z"},
            "bbox": [n / 10, 0, n / 10 + 0.05, 1],
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[n / 10, 0], [n / 10 + 0.05, 0], [n / 10 + 0.05, 1], [n / 10, 1], [n / 10, 0]]
                ],
            },
            "links": [],
            "assets": {"red": {"href": f"https://example.org/{n}.tif"}},
        }
        for n in range(count)
    ]


SEARCH = {"collections": ["c"], "datetime": "2025-07-01T00:00:00Z/2025-10-01T00:00:00Z"}


@pytest.mark.parametrize("paging", ["body", "merge", "get"])
@pytest.mark.parametrize("empty_last", [False, True])
def test_a_stac_client_finds_all_pages(paging: str, empty_last: bool) -> None:
    with StacServer(items(300), page=25, paging=paging, empty_last=empty_last) as server:
        search = Client.open(server.api).search(**SEARCH, limit=100)
        assert search.matched() == 150
        found = [item.id for item in search.items()]
        assert found == [f"item{n}" for n in range(1, 300, 2)]
        assert len(server.searches()) == 1 + 6 + empty_last
        # ^ the first is the count's


@pytest.mark.parametrize("stuck", ["same", "cycle", "endless"])
def test_a_stuck_cursor_never_ends(stuck: str) -> None:
    with StacServer(items(20), page=4, stuck=stuck) as server:
        pages = Client.open(server.api).search(**SEARCH).pages_as_dicts()
        assert [len(next(pages)["features"]) for _ in range(20)] == [4] * 20


def test_recorded_answers_are_replayed() -> None:
    pages = [
        {
            "type": "FeatureCollection",
            "features": items(2),
            "links": [
                {"rel": "next", "method": "POST", "href": "https://x.org/v7/search", "body": {}}
            ],
        },
        {"type": "FeatureCollection", "features": items(1), "links": []},
    ]
    with StacServer() as server:
        server.replay(pages, "https://x.org")
        found = list(Client.open(server.api).search(**SEARCH).items())
        assert [item.id for item in found] == ["item0", "item1", "item0"]
        assert server.searches()[0]["collections"] == ["c"]


def test_rustac_serves_items(tmp_path: Path) -> None:
    with rustac_serve(items(300), tmp_path) as api:
        search = Client.open(api).search(
            collections=["c"], bbox=[5, 0.2, 30, 0.4], datetime=SEARCH["datetime"], limit=20
        )
        found = [item.id for item in search.items()]
        assert sorted(found) == sorted(f"item{n}" for n in range(51, 300, 2))


@pytest.fixture
def bucket() -> Callable[[str], object]:
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    return lambda endpoint: boto3.client("s3", endpoint_url=endpoint, **keys)


def test_moto_serves_ranges_by_path(bucket: Callable) -> None:
    with s3_server() as endpoint:
        client = bucket(endpoint)
        client.create_bucket(Bucket="eodata")
        client.put_object(Bucket="eodata", Key="a/b.tif", Body=BODY)
        assert get(f"{endpoint}/eodata/a/b.tif").status_code == 403
        where = {"Bucket": "eodata", "Key": "a/b.tif"}
        url = client.generate_presigned_url("get_object", Params=where)
        assert get(url, Range="bytes=1000-").content == BODY[1000:]
