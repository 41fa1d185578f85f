"""The command that publishes the maps of a working directory."""

import json
import os
import subprocess

import boto3
import pytest
from runs import Scene

from servers import s3_server


def test_a_build_into_a_bucket(scene: Scene, monkeypatch) -> None:
    with s3_server() as endpoint:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "us-east-1")
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="maps")
        options = ("--to", "s3://maps/public", "--endpoint-url", endpoint)
        said = scene.says("publish", *options)
        assert said.startswith("basemake publish: first: s3://maps/public/first-")
        assert "bytes sent" in said

        def read(name: str) -> bytes:
            return client.get_object(Bucket="maps", Key=f"public/{name}")["Body"].read()

        archive = (scene.results / "pyramid/first.pmtiles").read_bytes()
        name = json.loads(read("first.json"))["archive"]
        assert read(name) == archive
        assert name in read("first.html").decode()
        assert scene.says("publish", *options) == ""

        path = scene.results / "pyramid/first.pmtiles"
        moment = path.stat().st_mtime_ns
        path.write_bytes(bytes([archive[0] ^ 1]) + archive[1:])
        os.utime(path, ns=(moment, moment))  # as when a disk loses a bit
        for why in ("is damaged: delete it, and run", "is not there yet: run snakemake first."):
            done = scene.call("publish", *options)
            assert done.returncode == 1
            assert done.stderr.startswith(f"basemake publish: results/pyramid/first.pmtiles {why}")
            assert done.stderr.count("\n") == 1
            path.unlink(missing_ok=True)
        assert read(name) == archive


def test_a_build_into_a_folder(scene: Scene) -> None:
    scene.config["pyramid"]["outputs"] = ["folder"]
    scene.run("--cores", "2")
    site = scene.directory / "site"
    options = ("--to", str(site), "--url", "https://example.org")
    scene.says("publish", *options, "--tiles")
    tiles = json.loads((site / "first.json").read_text())["tiles"]
    assert tiles == ["https://example.org/first/{z}/{x}/{y}.webp"]
    made = scene.results / "pyramid/first"
    for path in made.rglob("*.webp"):
        assert (site / "first" / path.relative_to(made)).read_bytes() == path.read_bytes()
    scene.says("publish", *options)
    assert (
        next(iter(site.glob("first-*.pmtiles"))).read_bytes()
        == (scene.results / "pyramid/first.pmtiles").read_bytes()
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "--to, the place, is missing; such as: make publish"),
        (("--to", "ftp://example.org"), "--to is 'ftp://example.org'; allowed: s3://"),
        (("--to", "site", "--url", "example.org"), "--url is 'example.org'; allowed: an address"),
    ],
)
def test_mistakes_are_one_sentence(scene: Scene, arguments: tuple[str, ...], why: str) -> None:
    done: subprocess.CompletedProcess = scene.call("publish", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"basemake publish: {why}")
    assert done.stderr.count("\n") == 1
