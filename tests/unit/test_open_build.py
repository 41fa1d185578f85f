"""The build that a command is about, from the arguments that snakemake takes."""

import os
from pathlib import Path

import pytest
import yaml

from basemake.engine.open_build import Build, open_build
from basemake.errors import BasemakeError

SQUARE = '{"type": "Polygon", "coordinates": [[[18, 43], [19, 43], [19, 44], [18, 44], [18, 43]]]}'
CONFIG = {"source": "simulated", "quarter": "2025Q3", "regions": {"here": "here.geojson"}}


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch) -> Path:
    """A working directory with a config, in which the test is afterwards, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # not a user's own profile
    directory = tmp_path / "maps"
    (directory / "config").mkdir(parents=True)
    (directory / "config/config.yaml").write_text(yaml.safe_dump(CONFIG))
    (directory / "here.geojson").write_text(SQUARE)
    return directory


def opened(*arguments: str, whole: bool = True) -> Build:
    return open_build(["--directory", "maps", *arguments], whole)


def test_it_goes_to_the_directory_and_reads_the_config_there(directory):
    build = opened("--cores", "1", "--resources", "connections=2")
    assert Path.cwd() == directory
    assert build.config["recipe"] == "l2a-optimized", "a default"
    assert [*build.regions] == ["here"]
    assert (build.cores, build.connections) == (1, 2)


def test_a_config_file_is_of_where_it_was_called_and_config_has_the_last_word(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**CONFIG, "recipe": "natural"}))
    build = opened("--configfile", "mine.yaml", "--config", "tile_codec=zstd")
    assert (build.config["recipe"], build.config["tile_codec"]) == ("natural", "zstd")


@pytest.mark.parametrize(
    "arguments",
    [
        ("results/mosaic/here.vrt",),
        ("--until", "enhance_tile"),
        ("--omit-from", "enhance_tile"),
        ("--allowed-rules", "all"),
        ("--batch", "all=1/2"),
        ("--target-jobs", "enhance_tile:tile=33TYH_0_0"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_leaves_jobs_out_is_refused_where_all_of_a_build_is_meant(arguments):
    assert opened("--cores", "1", *arguments, whole=False)
    os.chdir("..")
    with pytest.raises(BasemakeError, match="allowed are only those of a whole build"):
        opened("--cores", "1", *arguments)


@pytest.mark.parametrize(
    "option",
    [
        *("--touch", "--unlock", "--lint", "--list-rules", "--list-target-rules", "--summary"),
        *("--detailed-summary", "--dag", "--rulegraph", "--filegraph", "--delete-all-output"),
        *("--delete-temp-output", "--list-untracked", "--report", "--cleanup-shadow"),
    ],
)
def test_what_builds_nothing_is_refused(option):
    with pytest.raises(BasemakeError, match=f"^{option} builds nothing"):
        opened(option, whole=False)


@pytest.mark.parametrize("content", ["", "- a\n", "text"])
def test_a_config_that_is_no_mapping_is_named(directory, content):
    (directory / "config/config.yaml").write_text(content)
    with pytest.raises(BasemakeError, match=r"the file's content is .*; allowed: a mapping"):
        opened()


def test_a_directory_that_does_not_exist_is_named():
    with pytest.raises(BasemakeError, match="--directory is elsewhere: No such file"):
        open_build(["--directory", "elsewhere"])


def test_an_option_that_snakemake_does_not_know_is_named_without_its_usage():
    with pytest.raises(BasemakeError, match=r"^unrecognized arguments: --jsn; `snakemake --help`"):
        open_build(["--jsn"])


def test_cores_that_are_no_number_are_named():
    with pytest.raises(BasemakeError, match="number of cores"):
        opened("--cores", "many")
