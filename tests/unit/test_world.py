"""The simulated world: repeatable, continuous, and with all kinds of land in the demo region."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from basemake.noise import Floats
from basemake.recipe import Recipe
from basemake.world import reflectance
from hypothesis import given, settings
from hypothesis import strategies as st

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = 41
METRE = 1 / 111_320  # degrees of latitude

places = st.tuples(st.floats(-180, 180), st.floats(-80, 84))
