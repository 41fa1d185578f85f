"""What the pages promise: links that lead somewhere, every key and step, one version."""

import re
from pathlib import Path

import pytest
import yaml
from test_config import leaves
from test_environment import pinned

from basemake import __version__

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(page: str, heading: str) -> str:
    """Return what stands below a heading of a page in docs/."""
    return (DOCS / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the table below a heading: the name in the first cell -> other cells."""
    found = re.findall(r"^\| `([^`]+)` \|(.*)\|$", section(page, heading), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in found}


def schema(name: str) -> dict:
    return yaml.safe_load((CHECKOUT / f"config/{name}.schema.yaml").read_text())


def test_the_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for target in [target for target in targets if "://" not in target]:
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_configuration_has_every_key_with_its_default() -> None:
    keys = dict(leaves(schema("config")))
    table = rows("configuration.md", "Keys")
    assert table.keys() == keys.keys()
    for key, (default, _) in table.items():
        given = keys[key].get("default", "must be given")
        assert yaml.safe_load(default.strip("`")) == given, key


def test_configuration_has_every_key_of_a_source() -> None:
    assert (
        rows("configuration.md", "A source of your own").keys()
        == schema("source")["properties"].keys()
    )


def test_recipes_has_every_step_with_its_parameters() -> None:
    parameters = {}
    for branch in schema("recipe")["properties"]["steps"]["items"]["allOf"]:
        step = branch["if"]["properties"]["step"]
        for name in step.get("enum", [step.get("const")]):
            parameters[name] = {*branch["then"]["properties"]} - {"step", "bands"}
    table = rows("recipes.md", "Steps")
    assert table.keys() == parameters.keys()
    for name, cells in table.items():
        assert {*re.findall(r"`(\w+)`:", cells[-1])} == parameters[name], name


def test_every_page_states_the_same_version() -> None:
    changes = (CHECKOUT / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    newest = re.search(r"^## \[([0-9.]+)\] - (\S+)$", changes, re.MULTILINE)
    assert newest
    assert newest.groups() == (__version__, str(citation["date-released"]))
    assert citation["version"] == __version__


def test_the_snakemake_that_is_tested_is_required() -> None:
    least = re.search(
        r'^min_version\("(.+)"\)$', (CHECKOUT / "Snakefile").read_text(), re.MULTILINE
    )
    assert least
    assert least[1].split(".") == pinned("requirements.txt")["snakemake"].split(".")[:2]


def test_pre_commit_runs_what_make_lint_runs() -> None:
    recipe = (CHECKOUT / "Makefile").read_text().split("\nlint: dev\n")[1].split("\n\n")[0]
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    (repo,) = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repo["hooks"]] == commands
