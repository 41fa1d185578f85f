"""A working directory and the bucket that keeps its results, on a real S3 server (moto's)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from osgeo import gdal

from basemake.build.bucket import INDEX, Bucket, bucket_at, is_placeholder
from basemake.build.paths import MANIFEST
from basemake.build.records import MadeOf, is_intact, read_record, record_of, write_record
from basemake.errors import BucketError
from servers import s3_server

TILE, OTHER = Path("results/tiles/33TWM_0_0.tif"), Path("results/tiles/33TXM_0_0.tif")
MADE_OF = MadeOf({"recipe": "1"}, {}, [])


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def client(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A client of an empty bucket `maps`; the current directory is empty, too."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    client = boto3.client("s3")
    client.create_bucket(Bucket="maps")
    for entry in client.list_objects_v2(Bucket="maps").get("Contents", ()):
        client.delete_object(Bucket="maps", Key=entry["Key"])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return client


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Bucket]:
    """A function that goes to a new directory, and shows there what is in the bucket."""

    def go() -> Bucket:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        bucket = Bucket("s3://maps/alps")
        bucket.pull()
        return bucket

    return go


def make(path: Path, content: bytes = b"pixels" * 100, made_of: MadeOf = MADE_OF) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    write_record(path, made_of, "logs/x.log")


def test_what_was_sent_is_shown_and_fetched(client, elsewhere) -> None:
    sender = Bucket("s3://maps/alps/")
    sender.pull()
    make(TILE)
    MANIFEST.write_text("tiles")
    sender.send([TILE])
    sender.send_search()
    sender.send_index()
    record, content = record_of(TILE).read_bytes(), TILE.read_bytes()
    bucket = elsewhere()
    assert MANIFEST.read_text() == "tiles"
    assert record_of(TILE).read_bytes() == record
    assert is_placeholder(TILE)
    assert TILE.stat().st_size == len(content)
    assert is_intact(TILE, read_record(TILE))
    bucket.fetch([TILE])
    assert TILE.read_bytes() == content
    assert is_intact(TILE, read_record(TILE))
    bucket.pull()  # what is here stays
    assert TILE.read_bytes() == content
    bucket.release([TILE])
    assert is_placeholder(TILE)
    assert is_intact(TILE, read_record(TILE))


def test_only_the_records_of_what_is_there_count(client, elsewhere) -> None:
    sender = Bucket("s3://maps/alps")
    make(TILE)
    make(OTHER)
    sender.send([TILE, OTHER])
    sender.send_index()
    # A run died after it had sent another tile, before its record.
    client.put_object(Bucket="maps", Key=f"alps/{TILE}", Body=b"others" * 100)
    # One that was deleted is missing, and its record tells what it was.
    client.delete_object(Bucket="maps", Key=f"alps/{OTHER}")
    elsewhere()
    assert not TILE.exists()
    assert read_record(TILE) is None
    assert not OTHER.exists()
    assert read_record(OTHER) is not None


def test_what_this_directory_holds_besides_does_not_count(client, elsewhere) -> None:
    make(TILE)
    Bucket("s3://maps/alps").send([TILE])
    bucket = elsewhere()
    bucket.fetch([TILE])
    make(TILE, b"newer", MadeOf({"recipe": "2"}, {}, []))  # and its run died before it was sent
    make(OTHER)
    bucket = Bucket("s3://maps/alps")
    bucket.pull()
    assert read_record(TILE).made_of == MADE_OF
    bucket.fetch([TILE])
    assert TILE.read_bytes() == b"pixels" * 100
    assert read_record(OTHER) is None
    assert OTHER.exists()  # of someone, perhaps
    # A placeholder goes with its object.
    bucket.release([TILE])
    bucket.delete([TILE, record_of(TILE)])
    Bucket("s3://maps/alps").pull()
    assert not TILE.exists()


@pytest.mark.parametrize("index", [b"", b"[1]", b'{"results/records/tiles/33TWM_0_0.tif.json": 3}'])
def test_damaged_records_and_index(client, elsewhere, index: bytes) -> None:
    make(TILE)
    make(OTHER)
    Bucket("s3://maps/alps").send([TILE, OTHER])
    client.put_object(Bucket="maps", Key=f"alps/{INDEX}", Body=index)
    client.put_object(Bucket="maps", Key=f"alps/{record_of(OTHER)}", Body=b"another's")
    elsewhere()
    assert read_record(TILE) is not None
    assert read_record(OTHER) is None
    assert not OTHER.exists()


def test_an_object_that_is_not_what_its_record_says(client, elsewhere) -> None:
    make(TILE)
    Bucket("s3://maps/alps").send([TILE])
    key = f"alps/{record_of(TILE)}"
    said = client.get_object(Bucket="maps", Key=key)
    record = said["Body"].read().decode().replace(read_record(TILE).sha256, "0" * 64)
    client.put_object(Bucket="maps", Key=key, Body=record, Metadata=said["Metadata"])
    bucket = elsewhere()
    with pytest.raises(BucketError, match=r"s3://maps/alps/results/tiles/33TWM.* is not what its"):
        bucket.fetch([TILE])
    elsewhere()
    assert read_record(TILE) is None  # so the next run makes it again


def test_an_output_that_is_not_kept_any_more(client, elsewhere) -> None:
    make(TILE)
    sender = Bucket("s3://maps/alps")
    sender.send([TILE])
    sender.send([TILE], kept=False)
    elsewhere()
    assert not TILE.exists()
    assert read_record(TILE) is not None


def test_a_directory_holds_its_own_build_or_shows_a_bucket(client, elsewhere) -> None:
    make(TILE)
    with pytest.raises(BucketError, match="holds a build of its own, which is not in s3://maps"):
        Bucket("s3://maps/alps").pull()
    assert read_record(TILE) is not None
    bucket_at.cache_clear()
    assert bucket_at(None) is None
    elsewhere()
    bucket_at.cache_clear()
    with pytest.raises(BucketError, match="give --default-storage-prefix s3://maps/alps, or"):
        bucket_at(None)


def test_headers_hold_no_pixels_and_never_count_as_whole(client, elsewhere, write_tile) -> None:
    rgba = np.random.default_rng(1).integers(1, 255, (1100, 1200, 4), np.uint8)
    rgba[..., 3] = 255
    write_tile(TILE, rgba)
    write_record(TILE, MADE_OF)
    Bucket("s3://maps/alps").send([TILE])
    told = gdal.Info(str(TILE), format="json")
    bucket = elsewhere()
    bucket.fetch([TILE], headers=True)
    assert TILE.stat().st_blocks * 512 < TILE.stat().st_size / 2
    assert gdal.Info(str(TILE), format="json") == told
    bucket.release([TILE])
    assert not is_placeholder(TILE)
    os.utime(record_of(TILE))
    Bucket("s3://maps/alps").pull()  # as after a kill
    assert is_placeholder(TILE)
    bucket.fetch([TILE], headers=True)
    bucket.fetch([TILE])
    assert is_intact(TILE, read_record(TILE))
    assert gdal.Open(str(TILE)).ReadAsArray().any()


@pytest.mark.parametrize("url", ["maps", "az://maps/alps", "s3:///alps", "s3:maps"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(BucketError, match="allowed: s3://bucket/maps, gs://bucket/maps"):
        bucket_at(url)


def test_a_service_that_refuses_or_cannot_be_reached(client, monkeypatch) -> None:
    with pytest.raises(BucketError, match=r"s3://none/alps: .*NoSuchBucket"):
        Bucket("s3://none/alps").pull()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    with pytest.raises(BucketError, match=r"s3://maps/alps: .*Could not connect"):
        Bucket("s3://maps/alps").pull()
