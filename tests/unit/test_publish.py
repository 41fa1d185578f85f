"""Maps in a bucket of a real S3 server (moto's), and in a folder."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError

from basemake.errors import PublishError
from basemake.pixels.archive import TILE_TYPES, pack_parts, write_part
from basemake.pixels.webtiles import WebTile
from basemake.publish.places import Bucket, Folder, Place, place
from basemake.publish.publication import DIGEST, publish_archive, publish_folder
from basemake.readers.shown import Shown
from servers import s3_server

HEADER = {
    "tile_type": TILE_TYPES["webp"],
    **dict.fromkeys(("min_lon_e7", "min_lat_e7"), -10_000_000),
    **dict.fromkeys(("max_lon_e7", "max_lat_e7"), 20_000_000),
    **dict.fromkeys(("center_lon_e7", "center_lat_e7", "center_zoom"), 5),
}
METADATA = {"name": "alps", "description": "of a test", "attribution": "Somebody"}
READERS = {"alps.style.json", "alps.openlayers.html", "alps.leaflet.html"}
PAGE = (
    '<p>\\u003c1</p><script id="links" type="application/json">{{"archive": "{}", "index": {},'
    ' "items": "a\\"\\u003c/b", "tiles": {}}}</script>'
    '<script id="data" type="application/json">1</script>'
)
COUNT, BYTES = 400, 100_000  # web tiles, and bytes of one: 40 MB
CHANGED = 300  # the number of the one that changes


class Map:
    """What snakemake leaves of a region: an archive, its page, and a folder of web tiles."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.page = folder / "pyramid/alps.pmtiles", folder / "preview/alps.html"
        self.folder = folder / "pyramid/alps"
        self.page.parent.mkdir(parents=True)
        self.page.write_text(PAGE.format("../pyramid/alps.pmtiles", '"index.html"', '"../tiles/"'))
        self.make(b"")

    def make(self, change: bytes) -> None:
        """Make the map, with `change` at the end of one web tile."""
        draw = np.random.default_rng(1)
        tiles = [(WebTile(9, n % 20, n // 20), draw.bytes(BYTES)) for n in range(COUNT)]
        tiles[CHANGED] = tiles[CHANGED][0], tiles[CHANGED][1] + change
        part = self.archive.with_suffix(".parts")
        part.parent.mkdir(exist_ok=True)
        write_part(part, tiles, "webp")
        pack_parts([part], self.archive, HEADER, {**METADATA, "tile_size": 256})
        for (z, x, y), data in tiles[CHANGED - 3 : CHANGED + 3]:
            path = self.folder / f"{z}/{x}/{y}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def showing(self, tiles: str) -> Shown:
        return Shown.of(self.archive, tiles, "alps, 2025Q3")

    @property
    def name(self) -> str:
        digest = hashlib.sha256(self.archive.read_bytes()).hexdigest()
        return f"alps-{digest[:DIGEST]}.pmtiles"


@pytest.fixture
def made(tmp_path: Path) -> Map:
    return Map(tmp_path / "results")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(endpoint: str, monkeypatch, request) -> Iterator[Bucket]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"bucket-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    found = place(f"s3://{name}/maps/", endpoint)
    assert isinstance(found, Bucket)
    return found


@pytest.fixture(params=["bucket", "folder"])
def anywhere(request, tmp_path: Path) -> Place:
    if request.param == "bucket":
        return request.getfixturevalue("bucket")
    return Folder(tmp_path / "site")


def publish(made: Map, where: Place, remove_old: bool = False, url: str = ""):
    files = made.archive, made.page, made.showing
    return publish_archive("alps", *files, where, url=url, remove_old=remove_old)


def test_a_map_and_the_next(made: Map, anywhere: Place) -> None:
    first = made.name
    published = publish(made, anywhere, url="https://maps.example.org/")
    assert published.name == first
    assert published.sent > COUNT * BYTES
    assert anywhere.read(first) == made.archive.read_bytes()
    links = json.loads(anywhere.read("alps.html").split(b'json">')[1].split(b"</script>")[0])
    # An index and tiles' files are not there.
    assert links == {"archive": first, "index": None, "items": 'a"</b', "tiles": None}
    assert anywhere.read("alps.html").startswith(PAGE.split("{{")[0].encode())
    assert anywhere.read("alps.html").count(b"</b") == 0
    said = json.loads(anywhere.read("alps.json"))
    assert said["tiles"] == [f"pmtiles://https://maps.example.org/{first}/{{z}}/{{x}}/{{y}}"]
    assert (said["minzoom"], said["maxzoom"], said["bounds"]) == (9, 9, [-1.0, -1.0, 2.0, 2.0])
    assert said | METADATA == said
    style = json.loads(anywhere.read("alps.style.json"))
    assert style["sources"]["imagery"]["tiles"] == said["tiles"]
    for name in ("alps.openlayers.html", "alps.leaflet.html"):
        assert f'"archive": "https://maps.example.org/{first}"' in anywhere.read(name).decode()
    assert publish(made, anywhere, url="https://maps.example.org/").sent == 0

    made.make(b"new")
    published = publish(made, anywhere)
    assert published.name == made.name != first
    assert anywhere.read(made.name) == made.archive.read_bytes()
    assert made.name in anywhere.read("alps.html").decode()
    if isinstance(anywhere, Bucket):  # the front of the archive, and what changed
        readers = sum(len(anywhere.read(name)) for name in READERS)
        assert 2 * 5 * 2**20 <= published.sent < 2 * 5 * 2**20 + readers + 2**20

    second = made.name
    made.make(b"newer")
    anywhere.write("alps-north.json", b"{}")  # of another region
    assert publish(made, anywhere, remove_old=True).deleted == 2
    names = {name for name in (second, made.name) for name in (name, f"{name}.json")}
    assert set(anywhere.objects("")) == {
        *(names | READERS),
        *("alps.json", "alps.html", "alps-north.json"),
    }
    assert publish(made, anywhere, remove_old=True) == (made.name, 0, 0)


def test_a_reader_sees_the_old_map_or_the_new_one(made: Map, bucket: Bucket) -> None:
    publish(made, bucket)
    names, done = [made.name], Event()

    def read() -> list[str]:
        seen = []
        while not done.is_set():
            name = json.loads(bucket.read("alps.json"))["archive"]
            data = bucket.read(name)
            assert name == f"alps-{hashlib.sha256(data).hexdigest()[:DIGEST]}.pmtiles"
            seen.append(name)
            page = bucket.read("alps.html").decode()
            assert any(name in page for name in names)
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for change in (b"a", b"b", b"c"):
            made.make(change)
            names.append(made.name)
            publish(made, bucket, remove_old=True)
        done.set()
        seen = [name for reader in readers for name in reader.result()]
    assert set(seen) <= set(names)
    assert len(set(seen)) > 1


def test_what_is_copied_must_be_what_was_published(made: Map, bucket: Bucket, caplog) -> None:
    """An archive that somebody replaced is no longer copied from, and all is sent, says the log."""
    publish(made, bucket)
    bucket.write(made.name, bytes(made.archive.stat().st_size))
    made.make(b"new")
    assert publish(made, bucket).sent > COUNT * BYTES
    assert "is not what was published, so all is uploaded" in caplog.text
    assert bucket.read(made.name) == made.archive.read_bytes()


def _without_tag(index: dict) -> None:
    index["etag"] = None


def _with_another_piece(index: dict) -> None:
    index["pieces"].insert(0, [7, "x"])


def _with_other_lengths(index: dict) -> None:
    index["pieces"][1][0] += 1
    index["pieces"][2][0] -= 1


def test_a_service_that_copies_no_parts(made: Map, bucket: Bucket, monkeypatch, caplog) -> None:
    """As Google's: what it answers is made here, as no such server can be run."""
    publish(made, bucket)
    made.make(b"new")
    said = {"Error": {"Code": "NotImplemented"}}

    def refuse(**_: object) -> None:
        raise ClientError(said, "UploadPartCopy")

    monkeypatch.setattr(bucket._client, "upload_part_copy", refuse)
    assert publish(made, bucket).sent > COUNT * BYTES
    assert "cannot be copied (NotImplemented), so all is uploaded" in caplog.text
    assert bucket.read(made.name) == made.archive.read_bytes()
    assert not bucket._client.list_multipart_uploads(Bucket=bucket._bucket).get("Uploads")


@pytest.mark.parametrize(
    "damage", [_without_tag, _with_another_piece, _with_other_lengths, dict.clear, None]
)
def test_an_index_that_is_damaged(made: Map, bucket: Bucket, damage) -> None:
    publish(made, bucket)
    index = json.loads(bucket.read(f"{made.name}.json"))
    if damage:
        damage(index)
    bucket.write(f"{made.name}.json", json.dumps(index).encode() if damage else b"[")
    made.make(b"new")
    assert publish(made, bucket).sent > COUNT * BYTES
    assert bucket.read(made.name) == made.archive.read_bytes()


@pytest.mark.parametrize(
    "said", ["5", "[]", '{"archive": 5}', '{"archive": "../x", "previous": 7}']
)
def test_a_tilejson_that_is_damaged(made: Map, anywhere: Place, said: str) -> None:
    publish(made, anywhere)
    anywhere.write("alps.json", said.encode())
    publish(made, anywhere, remove_old=True)
    assert json.loads(anywhere.read("alps.json"))["archive"] == made.name


def test_an_archive_that_is_cut_short_is_published_again(made: Map, anywhere: Place) -> None:
    publish(made, anywhere)
    anywhere.write(made.name, b"short")
    publish(made, anywhere)
    assert anywhere.read(made.name) == made.archive.read_bytes()


def test_what_a_reader_may_have_open_stays(made: Map, anywhere: Place, monkeypatch) -> None:
    """Also if the last publication ended between the page and the TileJSON."""
    publish(made, anywhere)
    first = made.name
    if isinstance(anywhere, Folder):
        anywhere.write(f"{first}.0a1b.part", b"left by a kill")
    made.make(b"second")
    second = made.name
    write = type(anywhere).write

    def fail(self, name: str, data: bytes) -> None:
        if name == "alps.json":
            raise KeyboardInterrupt
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(anywhere), "write", fail)
        with pytest.raises(KeyboardInterrupt):
            publish(made, anywhere)
    made.make(b"third")
    publish(made, anywhere, remove_old=True)
    assert {name for name in anywhere.objects("alps-") if not name.endswith(".json")} == {
        second,
        made.name,
    }


def test_another_publication_at_the_same_time(
    made: Map, anywhere: Place, tmp_path: Path, monkeypatch
) -> None:
    """Another machine publishes its map, and removes old ones, before this one's is named."""
    publish(made, anywhere)
    time.sleep(1.1)  # as buckets tell times in seconds
    other = Map(tmp_path / "other")
    other.make(b"other")
    made.make(b"new")
    send = anywhere.send

    def send_and_wait(*arguments: object) -> tuple[str, int]:
        monkeypatch.setattr(anywhere, "send", send)
        done = send(*arguments)
        publish(other, anywhere, remove_old=True)
        return done

    monkeypatch.setattr(anywhere, "send", send_and_wait)
    publish(made, anywhere, remove_old=True)
    assert made.name in anywhere.read("alps.html").decode()
    assert anywhere.read(made.name) == made.archive.read_bytes()


def test_the_same_map_by_two_at_the_same_time(made: Map, tmp_path: Path, monkeypatch) -> None:
    site, copy = Folder(tmp_path / "site"), shutil.copyfile

    def copy_half(source: Path, target: Path) -> None:
        """Write half of the archive; the other publication does all; then write the rest."""
        monkeypatch.setattr(shutil, "copyfile", copy)
        with source.open("rb") as whole, target.open("wb") as half:
            half.write(whole.read(COUNT * BYTES // 2))
            publish(made, site)
            half.write(whole.read())

    monkeypatch.setattr(shutil, "copyfile", copy_half)
    publish(made, site)
    assert site.read(made.name) == made.archive.read_bytes()
    assert not [name for name in site.objects("") if name.endswith(".part")]


@pytest.mark.parametrize("fails", ["upload_part", "complete_multipart_upload", "put_object"])
def test_a_publication_that_ends_early(made: Map, bucket: Bucket, monkeypatch, fails: str) -> None:
    publish(made, bucket)
    first = made.name
    made.make(b"new")
    with monkeypatch.context() as patch:

        def fail(**_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(bucket._client, fails, fail)
        with pytest.raises(KeyboardInterrupt):
            publish(made, bucket)
    assert json.loads(bucket.read("alps.json"))["archive"] == first
    assert first in bucket.read("alps.html").decode()
    client = bucket._client
    assert not client.list_multipart_uploads(Bucket=bucket._bucket).get("Uploads")
    publish(made, bucket)
    assert json.loads(bucket.read("alps.json"))["archive"] == made.name
    assert bucket.read(made.name) == made.archive.read_bytes()


def test_web_tiles_one_by_one(made: Map, anywhere: Place) -> None:
    publish_folder("alps", made.folder, made.showing, anywhere, "https://example.org/")
    said = json.loads(anywhere.read("alps.json"))
    assert said["tiles"] == ["https://example.org/alps/{z}/{x}/{y}.webp"]
    assert "url=https://example.org/alps/%7Bz%7D" in anywhere.read("alps.qlr").decode()
    assert all(anywhere.read(name) for name in READERS)
    made.make(b"new")
    gone = max(made.folder.glob("*/*/*"))
    gone.unlink()
    anywhere.write("alps/notes.json", b"of somebody")
    published = publish_folder("alps", made.folder, made.showing, anywhere, "https://example.org/")
    assert published == ("alps/", BYTES + 3, 1)
    anywhere.delete("alps/notes.json")
    assert set(anywhere.objects("alps/")) == {
        f"alps/{path.relative_to(made.folder).as_posix()}" for path in made.folder.glob("*/*/*")
    }
    for name in anywhere.objects("alps/"):
        assert anywhere.read(name) == (made.folder / name.removeprefix("alps/")).read_bytes()


def test_places_that_are_none(tmp_path: Path, monkeypatch, endpoint: str) -> None:
    with pytest.raises(PublishError, match=r"in which the working directory .* lies"):
        Folder(tmp_path).check(tmp_path / "map")
    Folder(tmp_path / "map/site").check(tmp_path / "map")
    for wrong in ("ftp://example.org/maps", "s3://", "", "s3://b/maps?new", "s3://b/maps#1"):
        with pytest.raises(PublishError, match="allowed: s3://bucket/maps"):
            place(wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishError, match="cannot be written: File exists"):
        Folder(tmp_path / "file").write("a.json", b"")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(PublishError, match=r"s3://nowhere/maps: .*NoSuchBucket"):
        place("s3://nowhere/maps", endpoint).write("a.json", b"")
    with pytest.raises(PublishError, match=r"s3://b/maps: .*connect"):
        place("s3://b/maps", "http://127.0.0.1:9").write("a.json", b"")


def test_a_page_of_another_map(made: Map, bucket: Bucket) -> None:
    made.page.write_text("no map")
    with pytest.raises(PublishError, match="delete it and run snakemake"):
        publish(made, bucket)
