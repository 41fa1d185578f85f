"""Why a job is done again: Snakemake's words, as it printed them, and ours."""

import pytest

from basemake.reasons import (
    CODEC,
    DELETED,
    FOLLOWS,
    ITEM,
    NEWER,
    OTHER,
    POLYGON,
    RECIPE,
    SCRIPT,
    SOURCE,
    TILES,
    WEB_TILES,
    explain,
)

UPDATED = "Input files updated by another job: results/tiles/34TCP_0_0.tif"
STEPS = "[{'factor': 1.2, 'step': 'saturation'}, {'step': 'srgb'}]"
OTHER_STEPS = "[{'factor': 2.5, 'step': 'gain'}]"
METADATA = "{'ITEM': 'a', 'RECIPE': '[%s]', 'ATTRIBUTION': '%s'}"
RENDERING = "{'tile_size': 256, 'image_format': 'webp', 'quality': %s, 'min_zoom': 9}"
PACKING = (
    "{'extent': '%s', 'image_format': '%s', 'metadata': {'name': 'first',"
    " 'attribution': '%s', 'format': '%s', 'tile_size': 256}}"
)
OUTLINE = "{'type': 'Polygon', 'coordinates': (((17.3, 43.3), (18.9, %s)),)}"
GRID = "([1805289.7, 5354872.4, 2096056.1, %s], 152.8)"


def params(before: str, now: str) -> str:
    return (
        "Params have changed since last execution: Union of exclusive params before and now across"
        f" all output: before: {before} now: {now} "
    )


@pytest.mark.parametrize(
    ("rule", "reason", "why"),
    [
        ("render_metatile", UPDATED, FOLLOWS),
        ("enhance_tile", "Missing output files: results/tiles/34TCQ_0_0.tif", DELETED),
        ("enhance_tile", f"Missing output files: a.tif; {UPDATED}", DELETED),
        ("pack_pyramid", f"Incomplete output files: a.pmtiles; {UPDATED}", "was left half-made"),
        ("build_vrt", "Updated input files: results/tiles/34TCQ_0_0.tif", NEWER),
        ("build_vrt", f"Updated input files: ; {UPDATED}", FOLLOWS),
        ("render_metatile", "Set of input files has changed since last execution", TILES),
        (
            "build_zone_vrt",
            "Set of input files has changed since last execution; "
            + params(GRID % 5643192.9, GRID % 5713192.9),
            TILES,
        ),
        ("build_zone_vrt", params(GRID % 5643192.9, GRID % 5643192.8), WEB_TILES),
        ("build_zone_vrt", params("'bilinear'", "'nearest'"), WEB_TILES),
        ("fetch_band", params("'2025-10-16T00:00:00Z'", "'2026-02-01T00:00:00Z'"), ITEM),
        ("fetch_band", params("4711", "4712"), ITEM),
        (
            "enhance_tile",
            params(
                f"{STEPS},{METADATA % (1, 'x')}", f"{OTHER_STEPS},{METADATA % (2, 'x')}"
            ),
            RECIPE,
        ),
        # One side is a set, in any order.
        (
            "enhance_tile",
            params(f"{STEPS},'webp'", f"'zstd',{STEPS.replace('1.2', '1.3')}"),
            f"{RECIPE}, {CODEC}",
        ),
        ("enhance_tile", params(METADATA % (1, 'x'), METADATA % (1, 'y')), SOURCE),
        ("enhance_tile", params("{'scale': 0.1, 'offset': 0}", "{'scale': 1}"), SOURCE),
        ("enhance_tile", params("'73895806dde20114'", "'dd879d6b2e2f02b3'"), SCRIPT),
        ("render_metatile", f"{UPDATED}; {params(RENDERING % 80, RENDERING % 60)}", WEB_TILES),
        ("render_metatile", params(RENDERING % 80, RENDERING % "'lossless'"), WEB_TILES),
        ("render_metatile", params("'POLYGON ((1 2, 3 4))'", "None"), POLYGON),
        ("render_metatile", params("'MULTIPOLYGON (((1 2, 3 4)))'", "'POLYGON ((1 2))'"), POLYGON),
        (
            "pack_pyramid",
            params(PACKING % ("a", "webp", "x", "webp"), PACKING % ("b", "webp", "x", "webp")),
            POLYGON,
        ),
        (
            "pack_pyramid",
            params(PACKING % ("a", "jpeg", "x", "jpg"), PACKING % ("a", "webp", "y", "webp")),
            f"{WEB_TILES}, {SOURCE}",
        ),
        ("build_preview", params(OUTLINE % 43.35, OUTLINE % 43.36), POLYGON),
        ("build_preview", params("{'features': [{'id': 1}]}", "{'features': []}"), TILES),
        ("build_vrt", params("<object at 0x7f>", "None"), OTHER),
        ("build_vrt", "Forced execution", "asked for by name"),
        ("build_vrt", "Software environment definition has changed since last execution",
         "software environment changed"),
        ("build_vrt", "something that no Snakemake says yet", FOLLOWS),
    ],
)  # fmt: skip
def test_explain(rule, reason, why):
    assert explain(rule, reason) == why
