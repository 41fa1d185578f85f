"""Whole runs whose results are kept in a bucket, on a real S3 server (moto's)."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import pytest
from expected import (
    all_of_pyramid,
    enhancing,
    fetching,
    mosaicking,
    packing,
    paging,
    rendering,
    showing,
)
from faults import differences
from runs import EDGE, TIP, Scene

from basemake.build.bucket import Bucket
from basemake.errors import BucketError
from servers import s3_server

NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@dataclass
class Kept(Scene):
    """A scene whose results are in the bucket `maps`, below `prefix`."""

    prefix: str = "alps"

    def options(self) -> list[str]:
        return [*super().options(), "--default-storage-prefix", f"s3://maps/{self.prefix}"]


class Store(logging.Handler):
    """The server of a bucket; it counts requests, and can do something at one of them."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self.environment = {**dict.fromkeys(NAMES, "us-east-1"), "AWS_ENDPOINT_URL_S3": endpoint}
        keys = {"aws_access_key_id": "us-east-1", "aws_secret_access_key": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        self.client.create_bucket(Bucket="maps")
        self.requests: list[str] = []
        self.then: Callable[[], None] = lambda: None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the server's log."""
        self.requests.append(record.getMessage())
        self.then()

    def alone(self, scene: Scene, directory: Path, prefix: str) -> Kept:
        """A directory with config, polygon, source and catalog of a scene, and nothing else."""
        shutil.copytree(scene.directory / "catalog", directory / "catalog")
        for path in (*scene.directory.glob("*.geojson"), scene.directory / "source.yaml"):
            shutil.copy(path, directory)
        config = json.loads(json.dumps(scene.config))
        return Kept(directory, config, environment=self.environment, prefix=prefix)

    def keys(self, prefix: str) -> list[str]:
        listed = self.client.list_objects_v2(Bucket="maps", Prefix=f"{prefix}/")
        return [entry["Key"] for entry in listed["Contents"]]

    def results(self, prefix: str) -> dict[str, bytes]:
        """The content of all objects, by path in results/, but for the index of records."""
        keys = [key for key in self.keys(prefix) if key != f"{prefix}/records.json.gz"]
        return {key.removeprefix(f"{prefix}/results/"): self.read(key) for key in keys}

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket="maps", Key=key)["Body"].read()


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with s3_server() as endpoint:
        store = Store(endpoint)
        logging.getLogger("werkzeug").addHandler(store)
        yield store
        logging.getLogger("werkzeug").removeHandler(store)


@pytest.fixture(scope="module")
def built(north: Scene, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The north, built into the bucket."""
    kept = store.alone(north, tmp_path_factory.mktemp("kept") / "built", "alps")
    kept.build()
    return kept


@pytest.fixture
def kept(built: Kept, store: Store, tmp_path: Path) -> Kept:
    """A copy of it in the bucket, with a directory that has nothing of it."""
    for key in store.keys("alps"):
        source = {"Bucket": "maps", "Key": key}
        store.client.copy_object(
            Bucket="maps", Key=key.replace("alps", tmp_path.name, 1), CopySource=source
        )
    return store.alone(built, tmp_path / "kept", tmp_path.name)


def on_a_disk(scene: Scene) -> dict[str, bytes]:
    """The results of a scene, without the STAC catalog, which is a folder."""
    files = scene.files("**/*")
    return {path: files[path] for path in files if not path.startswith(("stac/", "records/stac."))}


def used(folder: Path) -> int:
    """The bytes of disk that the files in a folder take."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_the_bucket_holds_what_a_disk_would(
    north: Scene, built: Kept, store: Store, tmp_path: Path
) -> None:
    objects = store.results("alps")
    assert differences(objects, on_a_disk(north)) == set()
    # In the directory are only placeholders, of a block each.
    files = built.files("**/*")
    assert used(built.results) <= 4096 * len(files) + len(objects["manifest.geojson"])
    # A copy of it is a build on a disk.
    copy = Scene(store.alone(north, tmp_path / "copy", "").directory, north.config)
    for path, data in objects.items():
        (copy.results / path).parent.mkdir(parents=True, exist_ok=True)
        (copy.results / path).write_bytes(data)
    assert copy.jobs("--cores", "2") == {"build_stac"}
    assert copy.lasting() == north.lasting()


def test_the_bucket_alone_is_enough(north: Scene, kept: Kept, store: Store, tmp_path: Path) -> None:
    before = len(store.requests)
    assert "Nothing to be done" in kept.run("--cores", "2")
    asked = [request.split()[-4] for request in store.requests[before:]]
    assert len(asked) <= 4, asked  # for a list, the index, and the manifest twice

    # One item changes: exactly what follows from it is made, of tiles that are not here.
    disk = north.copy(tmp_path / "disk")
    for scene in (disk, kept):
        scene.edit_bands(EDGE)
        expected = fetching([EDGE]) | enhancing([EDGE]) | mosaicking([EDGE])
        expected |= rendering(showing(scene, [EDGE])) | packing()
        scene.rebuild(expected)
    assert differences(store.results(kept.prefix), on_a_disk(disk)) == set()

    for scene in (disk, kept):
        scene.config["pyramid"]["quality"] = 60
        scene.rebuild(all_of_pyramid(scene), search=False)
    assert differences(store.results(kept.prefix), on_a_disk(disk)) == set()


def test_a_run_that_died_while_it_sent(north: Scene, store: Store, tmp_path: Path) -> None:
    kept = store.alone(north, tmp_path / "kept", "died")
    kept.run("manifest")
    for sent in (9, 30):
        running = kept.start("--cores", "2")
        store.requests.clear()

        def kill(running: subprocess.Popen = running, sent: int = sent) -> None:
            if sum('"PUT' in request for request in store.requests) == sent:
                os.killpg(running.pid, signal.SIGKILL)

        store.then = kill
        running.communicate()
        store.then = lambda: None
        assert running.returncode == -signal.SIGKILL
    # Two machines go on with it at the same time.
    other = store.alone(north, tmp_path / "other", "died")
    running = [scene.start("--cores", "2") for scene in (kept, other)]
    printed = [one.communicate()[0] for one in running]
    assert [one.returncode for one in running] == [0, 0], "".join(printed)
    assert differences(store.results("died"), on_a_disk(north)) == set()
    assert "Nothing to be done" in kept.run("--cores", "2")


def test_what_is_half_there_is_made_again(kept: Kept, store: Store) -> None:
    """As a run leaves it that died between output and record, or a hand that changes it."""
    before = store.results(kept.prefix)
    place = {"Bucket": "maps"}
    results = f"{kept.prefix}/results"
    # What is still here, as after a kill, does not count for what is gone there.
    kept.run("--cores", "1", "--keep-storage-local-copies", "--forcerun", "build_preview")
    assert used(kept.results / "preview") > 4096
    store.client.put_object(**place, Key=f"{results}/tiles/{EDGE}.tif", Body=b"another run's")
    store.client.delete_object(**place, Key=f"{results}/preview/first.html")
    store.client.delete_object(**place, Key=f"{results}/records/metatiles/first/{TIP}.tif.json")
    # These, and the jobs that read them.
    expected = enhancing([EDGE]) | rendering(showing(kept, [EDGE]))
    expected |= {f"build_zone_vrt first 326{EDGE[:2]}", "render_overview first"}
    kept.rebuild(expected | paging(), search=False)
    assert differences(store.results(kept.prefix), before) == set()


def test_the_commands(kept: Kept, store: Store, tmp_path: Path) -> None:
    def bands() -> list[str]:
        return [path for path in store.results(kept.prefix) if path.startswith("bands/")]

    kept.run("--report", "results/report.html")  # in a directory that has nothing of it
    page = (kept.results / "report.html").read_text()
    assert "All was up to date" in page
    assert page.count("no quicklook") == 3

    plan = json.loads(kept.says("plan", "--json"))
    sizes = {path: len(data) for path, data in store.results(kept.prefix).items()}
    kept_there = [size for path, size in sizes.items() if not path.startswith(("rec", "man"))]
    assert plan["disk"]["now_bytes"] == sum(kept_there)
    assert (plan["disk"]["in_bucket"], plan["disk"]["peak_bytes"]) == (True, 0)
    kept.config["pyramid"]["quality"] = 60
    assert "\nBucket " in kept.says("plan")
    del kept.config["pyramid"]["quality"]

    assert "bytes sent" in kept.says("publish", "--to", str(tmp_path / "site"))
    archive = store.read(f"{kept.prefix}/results/pyramid/first.pmtiles")
    assert next((tmp_path / "site").glob("*.pmtiles")).read_bytes() == archive
    assert "tile borders" in kept.says("seams")
    assert used(kept.results / "pyramid") + used(kept.results / "tiles") <= 4 * 4096

    # Bands that are not kept any more are deleted there, too, and nothing is made again.
    kept.config["keep_bands"] = False
    assert bands()
    kept.says("prune", "--yes")
    assert not bands()
    assert kept.says("refresh", "--cores", "2") == ""
    kept.edit_bands(EDGE)
    assert "1 tile updated, 0 new, 0 gone; built" in kept.says("refresh", "--cores", "2")
    assert not bands()
    shutil.rmtree(kept.results)
    assert "Nothing to be done" in kept.run("--cores", "2")


def test_an_address_that_is_wrong(built: Kept, store: Store, tmp_path: Path) -> None:
    for address in ("s3:///alps", "maps/alps", "s3://maps/alps?b", "s3://maps/alps#b"):
        with pytest.raises(BucketError, match="allowed: s3://bucket/maps"):
            Bucket(address)
    mistaken = store.alone(built, tmp_path / "new", "alps")
    nowhere = ("--default-storage-prefix", "s3://nowhere/alps")
    assert "NoSuchBucket" in mistaken.run("manifest", *nowhere, check=False)
    # A directory that the mistake was made in may still be used for a build on the disk.
    Scene(mistaken.directory, mistaken.config).run("manifest")


def test_what_cannot_be_kept_in_a_bucket_is_refused(built: Kept) -> None:
    pyramid = {**built.config["pyramid"], "outputs": ["folder"]}
    folder = replace(built, config={**built.config, "pyramid": pyramid})
    printed = folder.run("--dry-run", check=False)
    assert "pyramid.outputs has 'folder', which is not kept in a bucket" in printed
    forgotten = Scene(built.directory, built.config).run("--dry-run", check=False)
    assert "shows what is in s3://maps/alps: give --default-storage-prefix s3://maps" in forgotten
    tiles = built.call("publish", "--to", str(built.directory / "site"), "--tiles")
    assert tiles.stderr.endswith("a bucket keeps no folders of web tiles; leave it out.\n")
    for command in ("serve", "verify"):
        done = subprocess.run(
            [sys.executable, *built.script(command), str(built.results)],
            capture_output=True,
            text=True,
        )
        assert "only shows what is in a bucket" in done.stderr
