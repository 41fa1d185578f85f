"""What people see of a run: Snakemake's log records, told to a screen."""

import logging
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.logging import LogEvent, get_event, logger
from snakemake.scheduling.job_scheduler import _ERROR_MSG_FINAL

from basemake.system.forked import can_fork
from basemake.system.interrupts import on_interrupt
from basemake.system.screen import Screen, counted, screen_on

WORTH_TELLING = "worth_telling"  # the attribute of log records that are shown though only INFO
# What Snakemake says before it executes, and is of no use here.
UNSHARED = "Assuming unrestricted shared filesystem usage."
# How its warnings begin that are of no use: records tell which outputs are whole.
OF_NO_USE = (_ERROR_MSG_FINAL, "Restored previous version of", "Cannot restore")
# Settings by which people ask for more, or less, of Snakemake's own words than a screen shows.
OWN_WORDS = ("verbose", "printshellcmds", "debug_dag", "quiet")


def show(workflow: Any, summary: Callable[[set[str]], list[str]]) -> None:
    """Show the run on a screen instead of Snakemake's own words, unless somebody asks for these.

    `summary` returns lines about what a run has made, by the rules that were its targets and are
    made with all that they need. `workflow.screen` becomes the screen, or None. What Snakemake
    prints before it executes, or without executing, stays as it is.
    """
    workflow.screen = None
    execute, usual = workflow.execute, _usual_handler(workflow)
    if usual:
        usual.addFilter(lambda record: record.msg != UNSHARED)

    def shown(*, executor_plugin: Any, **settings: Any) -> None:
        kind = executor_plugin.common_settings
        if usual is None or kind.touch_exec:
            on_interrupt(signal.default_int_handler)
            execute(executor_plugin=executor_plugin, **settings)
            return
        # Jobs that are not forked print across a live display.
        apart = can_fork() and not workflow.deployment_settings.deployment_method
        color = not workflow.output_settings.nocolor
        screen = workflow.screen = screen_on(usual.stream, color, apart)
        teller = _Teller(workflow, screen, kind.dryrun_exec)
        logger.removeHandler(usual)
        logger.addHandler(teller)
        try:
            with screen.shown():
                on_interrupt(partial(_stop, screen))
                execute(executor_plugin=executor_plugin, **settings)
        except (KeyboardInterrupt, WorkflowError):
            if not (screen.failed or screen.stopped):
                raise
            screen.tell(screen.outcome)
            sys.exit(1)
        made = set() if kind.dryrun_exec else _made_whole(workflow)
        for line in [teller.listed or screen.outcome, *summary(made)]:
            screen.tell(line)

    workflow.execute = shown


def _made_whole(workflow: Any) -> set[str]:
    """Return the names of the rules that a run makes with all that they need."""
    parts = workflow.dag_settings
    if parts.until or parts.omit_from or parts.batch:
        return set()
    return {rule.name for rule in workflow.dag.targetrules}


def _usual_handler(workflow: Any) -> Any:
    """Return the handler that prints Snakemake's own words; None if they are asked for."""
    asked = any(getattr(workflow.output_settings, name) for name in OWN_WORDS)
    if asked or not workflow.is_main_process:
        return None
    handlers = (found for found in logger.handlers if found.name == "DefaultStreamHandler")
    return next(handlers, None)  # there is none where --logger names another


def _stop(screen: Screen, number: int, frame: FrameType | None) -> None:
    screen.stop()
    signal.default_int_handler(number, frame)


class _Teller(logging.Handler):
    """Tells a screen what Snakemake logs.

    `listed` is, after a dry run, how many jobs of which rules it named.
    """

    def __init__(self, workflow: Any, screen: Screen, dryrun: bool) -> None:
        super().__init__()
        self._screen, self._dryrun = screen, dryrun
        # Only jobs of these are counted: `all` does nothing.
        self._stages = {rule.name: stage_of(rule) for rule in workflow.rules if rule.script}
        self.listed = ""
        self._exception = ""  # the words of the last one that a job raised

    def emit(self, record: logging.LogRecord) -> None:
        """Tell the screen of an event, or show a message if it is of use."""
        event, said = get_event(record), vars(record)
        if event == LogEvent.RUN_INFO:
            self._begin({name: said["stats"].get(name, 0) for name in self._stages})
        elif event == LogEvent.JOB_INFO:
            self._start(said)
        elif event == LogEvent.JOB_FINISHED:
            self._screen.finish(said["job_id"])
        elif event == LogEvent.JOB_ERROR:
            self._screen.fail([said["jobid"]], said["log"], self._exception)
        elif event == LogEvent.GROUP_ERROR:
            numbers = [job["jobid"] for job in said["job_error_info"]]
            self._screen.fail(numbers, said["aux_logs"], self._exception)
        elif said.get("exception") == "RuleException":  # told of by JOB_ERROR, which follows
            self._exception = record.getMessage()
        elif _is_of_use(record):
            self._screen.tell(record.getMessage())

    def _begin(self, counts: dict[str, int]) -> None:
        if self._dryrun:
            rules = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
            self.listed = f"{counted(sum(counts.values()), 'job')}: {rules}"
            return
        totals: Counter[str] = Counter()
        for name, count in counts.items():
            totals[self._stages[name]] += count
        self._screen.begin(+totals)

    def _start(self, said: dict[str, Any]) -> None:
        if said["rule_name"] in self._stages:
            name = " ".join([said["rule_name"], *said["wildcards"].values()])
            if self._dryrun:
                self._screen.tell(f"{name}: {said['reason']}")
            else:
                self._screen.start(said["jobid"], name, self._stages[said["rule_name"]])


def _is_of_use(record: logging.LogRecord) -> bool:
    """Return whether a message tells people more than the screen does without it."""
    if str(record.msg).startswith(OF_NO_USE):
        return False
    return is_warning(record) or getattr(record, WORTH_TELLING, False)


def is_warning(record: logging.LogRecord) -> bool:
    """Return whether a record of Snakemake's log is a warning or an error."""
    return record.levelno >= logging.WARNING


def stage_of(rule: Any) -> str:
    """Return the name of the file in rules/ that contains a rule."""
    return Path(rule.snakefile).stem
