"""The reasons for which jobs are run again: each cause, and its phrase in docs/rebuilds.md."""

import re

import pytest

from basemake.build.code_digest import SCRIPTS
from basemake.build.reasons import (
    CODEC,
    CREDIT,
    DAMAGED,
    DELETED,
    FILL,
    FOLLOWS,
    FORCED,
    INPUT,
    INPUTS,
    ITEM,
    MISSING,
    POLYGON,
    SOURCE,
    TILES,
    UNRECORDED,
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
        ([MISSING, "codec"], CODEC),
        ([MISSING, INPUTS, "fill", "items", "mask"], FILL),
        ([MISSING, "digest"], ITEM),
        (["mask"], SOURCE),
        ([DAMAGED], "changed or damaged by hand"),
        ([UNRECORDED], "without a record of what it was made of"),
        ([INPUTS], TILES),
        (["grid", INPUTS], TILES),
        (["grid"], WEB_TILES),
        (["quality", "resampling", INPUT], WEB_TILES),
        (["updated", "size"], ITEM),
        (["outline"], POLYGON),
        (["codec"], CODEC),
        (["attribution", "codec"], f"{CODEC}, {CREDIT}"),
        (["code"], "a script changed"),
        (["title"], "settings changed"),
    ],
)
def test_explain(causes, why):
    assert explain(causes) == why


def test_every_name_with_a_phrase_is_a_setting():
    """A setting of the rules, or of the modules from which rules take settings."""
    files = [*(SCRIPTS.parent / "rules").glob("*.smk")]
    files += [SCRIPTS / "basemake/build" / name for name in ("manifest.py", "bands.py")]
    text = "".join(path.read_text() for path in files)
    names = {*re.findall(r'"(\w+)"', text), *re.findall(r"^ +(\w+)=", text, re.MULTILINE)}
    assert WORDS.keys() - {MISSING, DAMAGED, UNRECORDED, FORCED, INPUTS} <= names
