"""Why a job is done again: the causes that records give, in the words of README's table."""

import re

import pytest

from basemake.build.code_digest import SCRIPTS
from basemake.build.engine import DAMAGED, INPUT, INPUTS, MISSING, UNRECORDED
from basemake.build.reasons import (
    CODEC,
    DELETED,
    FOLLOWS,
    ITEM,
    POLYGON,
    SOURCE,
    TILES,
    WEB_TILES,
    WORDS,
    explain,
)


@pytest.mark.parametrize(
    ("causes", "why"),
    [
        ([], FOLLOWS),
        ([INPUT], FOLLOWS),
        ([MISSING], DELETED),
        ([MISSING, INPUT], DELETED),
        ([DAMAGED], "changed or damaged by hand"),
        ([UNRECORDED], "without a record of what it was made of"),
        ([INPUTS], TILES),
        (["grid", INPUTS], TILES),
        (["grid"], WEB_TILES),
        (["quality", "resampling", INPUT], WEB_TILES),
        (["updated", "size"], ITEM),
        (["outline"], POLYGON),
        (["codec"], CODEC),
        (["attribution", "codec"], f"{CODEC}, {SOURCE}"),
        (["code"], "a script changed"),
        (["title"], "settings changed"),
    ],
)
def test_explain(causes, why):
    assert explain(causes) == why


def test_every_name_is_that_of_a_setting_in_the_rules():
    rules = "".join(path.read_text() for path in (SCRIPTS.parent / "rules").glob("*.smk"))
    names = {*re.findall(r'"(\w+)"', rules), *re.findall(r"^ +(\w+)=", rules, re.MULTILINE)}
    assert WORDS.keys() - {MISSING, DAMAGED, UNRECORDED, INPUTS} <= names
