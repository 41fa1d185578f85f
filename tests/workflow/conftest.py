"""Builds for tests of whole runs."""

import pytest
from runs import CHECKOUT, Build


@pytest.fixture(scope="session")
def new_build(tmp_path_factory: pytest.TempPathFactory):
    """A function that makes a Build with a config, in a new directory."""

    def make(**config) -> Build:
        return Build(tmp_path_factory.mktemp("build"), config)

    return make


@pytest.fixture(scope="session")
def demo_config() -> dict:
    """The demo, with lossless web tiles so that pixels can be compared."""
    return {
        "source": "simulated",
        "quarter": "2025Q3",
        "regions": {"demo": str(CHECKOUT / "config/regions/demo.geojson")},
        "pyramid": {"metatile_zoom": 8, "quality": "lossless"},
    }
