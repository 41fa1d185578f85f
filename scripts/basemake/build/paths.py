"""Where a build's files are, in the working directory. Imports nothing that takes time."""

from pathlib import Path

CONFIGFILE = Path("config/config.yaml")  # if none is named by --configfile
RESULTS = Path("results")
MANIFEST = RESULTS / "manifest.geojson"
RECORDS = RESULTS / "records"
DRAFT = Path("draft")  # the working directory of the draft
SHOWN = RESULTS / ".bucket"  # names the bucket whose results are shown here, if they are in one
