"""`snakemake --report`: the page of a real build in a real browser, fresh and stale."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from chromium import Tab, eventually
from osgeo import gdal
from runs import EDGE, Scene

from basemake.build.config import read_recipe
from basemake.errors import ConfigError
from basemake.look.figures import share_text
from basemake.report.contents import Subject
from basemake.report.page import write_page
from lookable import opened

PAGE = "results/report.html"
HOSTILE = '</script><script>console.error(1)</script><img src="//example.org/x"> & {{ id }}'


@pytest.fixture
def scene(north: Scene, tmp_path: Path) -> Scene:
    """A copy of a small build, which a test may change."""
    return north.copy(tmp_path / "scene")


def reported(scene: Scene) -> str:
    """Let snakemake write a report, which must say no more than that; return the page."""
    said = scene.run("--report", PAGE)
    assert re.search(rf"^{PAGE}: written, [0-9.]+ kB; it opens in any browser$", said, re.MULTILINE)
    assert "etadata" not in said
    return (scene.directory / PAGE).read_text()


def texts(tab: Tab, selector: str) -> list[str]:
    """The texts of all elements that a selector finds, with single spaces."""
    return tab.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        ".map(one => (one.cells ? [...one.cells].map(cell => cell.textContent).join(' ')"
        " : one.textContent).trim().replace(/\\s+/g, ' '))"
    )


def test_a_report_shows_maps_tiles_and_jobs_in_a_browser(scene: Scene, tab: Tab) -> None:
    page = reported(scene)
    tab.open((scene.directory / PAGE).as_uri())
    assert texts(tab, "h1") == ["first, 2025Q3"]
    assert texts(tab, ".state")[0].startswith("All was up to date")
    facts = dict(zip(texts(tab, ".map dt"), texts(tab, ".map dd"), strict=True))
    assert facts["Covered"] == "100.0 % of the region"
    assert (facts["Tiles"], facts["Credit"]) == ("3", "Simulated imagery")
    assert facts["Zooms"] == "0 to 10, jobs of zoom 9"

    tiles = json.loads((scene.results / "manifest.geojson").read_text())["features"]
    assert sorted(texts(tab, ".tiles h3")) == sorted(tile["id"] for tile in tiles)
    for tile in tiles:
        [told] = texts(tab, f"#tile-{tile['id']}")
        assert f"{tile['properties']['item']} of 2025-10-16" in told
        image = gdal.Open(str(scene.results / f"tiles/{tile['id']}.tif"))
        holes = share_text(float((image.GetRasterBand(4).ReadAsArray() == 0).mean()))
        assert re.search(rf"holes {holes}; fetched \d+ kB, enhanced \d+ kB$", told)
    tab.evaluate("document.querySelector('.tiles').scrollIntoView()")  # images are loaded then
    eventually(lambda: tab.evaluate("[...document.images].map(i => i.naturalWidth)"), [160] * 3)
    assert tab.evaluate("document.querySelector('.map image').getBBox().height") > 900
    assert len(texts(tab, ".map a .tile")) == 3
    targets = "[...document.links].filter(l => !document.querySelector(l.hash || 'no')).length"
    assert tab.evaluate(targets) == 0, "each link leads somewhere in the page"

    archive = hashlib.sha256((scene.results / "pyramid/first.pmtiles").read_bytes()).hexdigest()
    assert archive in page
    rules = texts(tab, "#use + p + div tbody th")
    assert {"fetch_bands", "enhance_tile", "render_metatile", "pack_pyramid"} < {*rules}
    assert sorted(texts(tab, ".flow g text:first-of-type")) == sorted(rules)
    assert texts(tab, "#use + p + div tbody tr")[0].startswith("fetch_bands 3 of 3")
    assert "metatile_zoom: 9" in texts(tab, "#config + p + pre")[0]
    assert "- {step: highlight_compression, maximum: 3.0" in page
    assert {"basemake", "GDAL", "snakemake"} < {*texts(tab, "#software + p + div tbody th")}

    for width in (390, 1280):  # of a phone, and of a desktop
        tab.resize(width, 800)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    shown = [params["request"]["url"] for params in tab.happened("Network.requestWillBeSent")]
    assert {url.split(":")[0] for url in shown} <= {"file", "data"}


def test_a_report_says_what_is_still_to_be_done(scene: Scene, tab: Tab) -> None:
    scene.config["recipe"] = "natural"
    (scene.results / "pyramid/first.pmtiles").unlink()
    (scene.results / f"tiles/{EDGE}.tif").write_bytes(b"broken")
    reported(scene)
    tab.open((scene.directory / PAGE).as_uri())
    assert re.match(r"\d+ of \d+ jobs were still to be done", texts(tab, ".state")[0])
    rows = texts(tab, "#stale + div tbody tr")
    assert "enhance_tile 3 recipe changed 33TYK_0_0, 34TCP_0_0, 34TCQ_0_0" in rows
    assert not any(row.startswith("fetch_bands") for row in rows)
    assert texts(tab, ".tiles .warn") == ["recipe changed"] * 3
    assert texts(tab, f"#tile-{EDGE} .none") == ["no quicklook"]
    assert texts(tab, "figcaption")[0].startswith("No picture, as its archive cannot be read here.")
    assert tab.evaluate("document.images.length") == 2
    assert tab.evaluate("document.querySelectorAll('.flow .stale').length") >= 5


def test_a_report_is_refused_in_one_sentence(scene: Scene) -> None:
    said = scene.run("--report", "a.zip", check=False)
    sentence = "basemake: --report is 'a.zip'; allowed: a path that ends in .html."
    assert said.splitlines()[-1] == sentence
    (scene.results / "manifest.geojson").unlink()
    said = scene.run("--report", PAGE, check=False)
    assert "run `snakemake manifest` first" in said.splitlines()[-1]
    assert not (scene.directory / PAGE).exists()


# -- Without a run of its own ----------------------------------------------------------------------


@pytest.fixture
def subject(scene: Scene) -> Iterator[Subject]:
    """The build as a report sees it, whose directory is the current one meanwhile."""
    with opened(scene.options()) as build:
        steps = read_recipe(build.config["recipe"])["steps"]
        yield Subject(
            build.config, build.source, steps, build.attribution, build.layout(), build.graph()
        )


def test_words_from_outside_are_words_and_equal_builds_have_equal_reports(
    subject: Subject, tmp_path: Path, tab: Tab
) -> None:
    tiles = subject.layout.tiles
    for name, tile in tiles.items():
        tiles[name] = replace(tile, item=HOSTILE, updated=HOSTILE)
    hostile = replace(
        subject,
        attribution=HOSTILE,
        source=replace(subject.source, title=HOSTILE, url=HOSTILE),
        config={**subject.config, "recipe": HOSTILE},
    )
    page, again = tmp_path / "new/a.html", tmp_path / "b.html"
    now = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    write_page(page, hostile, now)
    write_page(again, hostile, now)
    assert page.read_bytes() == again.read_bytes()
    tab.open(page.as_uri())
    assert HOSTILE in texts(tab, ".map dd")[-1]
    assert tab.evaluate("document.querySelectorAll('script, [src^=\"//\"]').length") == 0
    assert "2 January 2026, 03:04 UTC" in texts(tab, "header p")[0]


def test_a_build_that_does_not_keep_tiles_shows_parts_of_its_map(
    subject: Subject, tmp_path: Path, tab: Tab
) -> None:
    write_page(
        tmp_path / "a.html",
        replace(subject, config={**subject.config, "keep_tiles": False}),
        datetime.now(UTC),
    )
    tab.open((tmp_path / "a.html").as_uri())
    assert tab.evaluate("document.images.length") == 3
    assert "quicklooks are parts of the map" in texts(tab, "#tiles + p")[0]


def test_nothing_made_yet_is_one_sentence(subject: Subject, tmp_path: Path, tab: Tab) -> None:
    jobs = [replace(job, causes=["missing"]) for job in subject.graph.jobs]
    write_page(
        tmp_path / "a.html",
        replace(subject, graph=replace(subject.graph, jobs=jobs)),
        datetime.now(UTC),
    )
    tab.open((tmp_path / "a.html").as_uri())
    assert texts(tab, ".state") == [
        "Nothing of this build has been made yet: run snakemake, and write the report again."
    ]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_page(tmp_path / "file/a.html", subject, datetime.now(UTC))


def test_of_very_many_tiles_those_that_are_not_up_to_date_are_told_first(
    subject: Subject, tmp_path: Path, tab: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basemake.report.contents.MOST_TILES", 1)
    last = list(subject.layout.tiles)[-1]
    jobs = [
        replace(job, causes=["recipe"]) if job.wildcards.get("tile") == last else job
        for job in subject.graph.jobs
    ]
    write_page(
        tmp_path / "a.html",
        replace(subject, graph=replace(subject.graph, jobs=jobs)),
        datetime.now(UTC),
    )
    tab.open((tmp_path / "a.html").as_uri())
    assert texts(tab, ".tiles h3") == [last]
    assert len(texts(tab, ".map a .tile")) == 1
    assert len(texts(tab, ".map .tile")) == 2, "the others are one shape without a name"
