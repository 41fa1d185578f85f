"""How `--report` is answered: by a page of basemake's own."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from basemake.engine.graph import Graph, graph_of
from basemake.engine.staleness import planned
from basemake.errors import BasemakeError, ConfigError


def answer_report(
    workflow: Any, begin: Callable[[], None], write: Callable[[Path, Graph], None]
) -> None:
    """Let `--report PATH` call `write` with PATH and the graph of jobs, instead of Snakemake.

    `begin` is called before the jobs are planned. A reporter that somebody names by `--reporter` is
    used as it is.
    """
    create = workflow.create_report

    def report(*, report_plugin: Any, report_settings: Any, global_report_settings: Any) -> None:
        if report_plugin.name != "html":
            create(report_plugin, report_settings, global_report_settings)
            return
        path, settings = report_settings.path, workflow.dag_settings
        try:
            if path.suffix != ".html":
                raise ConfigError(f"--report is {str(path)!r}; allowed: a path that ends in .html.")
            if report_settings.stylesheet_path or global_report_settings.metadata_template:
                raise ConfigError(
                    "--report-stylesheet and --report-metadata are for Snakemake's own report:"
                    " leave them out."
                )
            begin()
            workflow._prepare_dag(
                forceall=settings.forceall, ignore_incomplete=False, lock_warn_only=False
            )
            workflow._build_dag()
            write(path, graph_of(planned.pop()))
        except BasemakeError as error:
            sys.exit(f"basemake: {error}")

    workflow.create_report = report
