"""Cloud-optimized GeoTIFFs as rio-cogeo and rio-tiler see them.

They run in a process of their own, because rasterio brings another GDAL than the one of the tests.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VALIDATE = """
import json, sys
from rio_cogeo import cog_validate
found = {path: sum(cog_validate(path, strict=True, quiet=True)[1:], []) for path in sys.argv[1:]}
print(json.dumps(found))
"""
READ = """
import sys
import numpy as np
from rio_tiler.io import Reader
path, side, output = sys.argv[1:]
with Reader(path) as reader:
    image = reader.preview(max_size=int(side))
    np.save(output, np.concatenate([image.data, image.mask[np.newaxis]]))
"""


def refusals(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Return what rio-cogeo, which takes warnings for errors, has against files, by their names."""
    said = json.loads(_run(VALIDATE, *paths))
    return {Path(path).name: words for path, words in said.items() if words}


def preview(path: Path, side: int) -> NDArray[np.uint8]:
    """Return what rio-tiler shows of a file within `side` pixels: its bands, and where it shows."""
    output = path.with_suffix(".npy")
    _run(READ, path, side, output)
    return np.load(output)


def _run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
