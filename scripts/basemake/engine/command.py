"""What snakemake's arguments ask for, as commands beside the workflow need to know it."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

from snakemake import cli
from snakemake.exceptions import CliException
from snakemake.utils import update_config

from basemake.build.paths import CONFIGFILE
from basemake.errors import ConfigError

USAGE = 2  # argparse's exit status for an option that it refuses
SNAKEFILE = Path(__file__).resolve().parents[3] / "Snakefile"
# Options that leave jobs out of a run.
PARTIAL = ("targets", "until", "omit_from", "batch", "allowed_rules", "target_jobs")
# Options with which snakemake builds nothing.
NO_BUILD = (
    *("touch", "unlock", "lint", "list_rules", "list_target_rules", "summary", "detailed_summary"),
    *("dag", "rulegraph", "filegraph", "list_changes", "list_input_changes"),
    *("list_params_changes", "list_untracked", "cleanup_metadata", "cleanup_shadow"),
    *("delete_all_output", "delete_temp_output", "print_compilation", "report", "archive"),
    *("generate_unit_tests", "containerize", "export_cwl", "edit_notebook", "draft_notebook"),
    *("list_conda_envs", "conda_create_envs_only", "conda_cleanup_envs"),
    "container_cleanup_images",
)


class Command(NamedTuple):
    """What snakemake's `arguments` ask for if it is called in the directory `called_in`.

    `given` is the value of `--config`. `cores`, `jobs` and `connections` are None where neither
    profile nor command line give them. `bucket` is the address at which results are kept, if they
    are not kept here. `partial` are the options present that leave jobs out.
    """

    arguments: list[str]
    called_in: Path
    directory: Path
    configfiles: list[Path]
    given: dict[str, Any]
    cores: int | None
    jobs: int | None
    connections: int | None
    dry_run: bool
    bucket: str | None
    partial: list[str]

    def line(self, *targets: str) -> list[str]:
        """Return the command line of a run, or of one that makes `targets`."""
        return [sys.executable, "-m", "snakemake", *targets, *self.arguments]

    def config(self, read: Callable[[Path], Any]) -> Any:
        """Return the config of the config files, read by `read`, and of `--config`, not checked."""
        config: dict[str, Any] = {}
        for part in [*map(read, self.configfiles or [CONFIGFILE]), self.given]:
            if not isinstance(part, dict):
                return part  # which the check refuses
            update_config(config, part)
        return config


def parse(arguments: list[str]) -> Command:
    """Return what snakemake's `arguments` and its profile ask for.

    Raises ConfigError for options that snakemake does not know, or with which it builds nothing;
    ends the process with Snakemake's message if Snakemake refuses them otherwise.
    """
    arguments = ["--snakefile", str(SNAKEFILE), *arguments]
    try:
        with quiet_unless_it_ends():
            _, options = cli.parse_args(arguments)
            given = cli.parse_config(options.config)
    except CliException as error:
        raise ConfigError(f"{error.msg}") from None
    for name in NO_BUILD:
        if getattr(options, name, None):
            raise ConfigError(f"--{name.replace('_', '-')} builds nothing; leave it out.")
    connections = options.resources.get("connections")
    return Command(
        arguments,
        Path.cwd(),
        Path(options.directory or Path()),
        [path.absolute() for path in options.configfile or []],
        given,
        options.cores,
        options.jobs,
        connections.value if connections else None,
        options.dryrun,
        options.default_storage_prefix or None,
        [name for name in PARTIAL if getattr(options, name)],
    )


@contextmanager
def quiet_unless_it_ends() -> Iterator[None]:
    """Drop what Snakemake prints to stderr, such as its profile, unless it ends the process.

    Raises ConfigError if it ends it because of an option.
    """
    with io.StringIO() as said:
        try:
            with redirect_stderr(said):
                yield
        except SystemExit as end:
            _, refused, why = said.getvalue().rpartition(": error: ")  # after pages of usage
            if refused and end.code == USAGE:
                raise ConfigError(f"{why.strip()}; `snakemake --help` lists the options.") from None
            if end.code and not isinstance(end.code, str):
                print(said.getvalue(), end="", file=sys.stderr)
            raise
