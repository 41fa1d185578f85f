"""`make plan`: print what a run would do. Takes the options of snakemake, and --json."""

import argparse
import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of basemake

from basemake.engine.open_build import as_command, open_build
from basemake.forecast.briefing import brief
from basemake.forecast.forecast import forecast


def main(arguments: list[str]) -> None:
    """Print the plan of the build that `arguments` name, and write its map (PNG)."""
    parser = argparse.ArgumentParser("plan", add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    own, rest = parser.parse_known_args(arguments)
    with as_command("plan"):
        report = {"arguments": rest, **forecast(open_build(rest))}
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that it may be piped into `head`
    print(json.dumps(report, indent=1) if own.json else brief(report))


if __name__ == "__main__":
    main(sys.argv[1:])
