"""What Snakemake need not do while it plans, which would grow with the number of jobs."""

import gc
from collections.abc import Callable
from types import FunctionType
from typing import Any

from snakemake import common, jobs, rules
from snakemake.common import get_function_params
from snakemake.settings.types import DeploymentMethod


def spare(workflow: Any, dag: Any) -> None:
    """Leave out of the planning what takes long for many jobs and can find nothing here.

    Snakemake would read the script of each job to see that it exists, although `code` in its params
    is a digest of it; look for outputs inside folders that are outputs, although only an exported
    folder is one; and expand the params of each job for its conda environment, even if none is
    used. It would also inspect the signature of a function at each of its calls, and look for each
    input of a job in all outputs of all jobs that it needs, in case it is a pipe.
    """
    build = workflow._build_dag

    def build_uncollected() -> None:
        """Build the graph without looking for garbage in it, which takes longer the more there is.

        Nor is the graph looked at later, as it stays until the process ends.
        """
        gc.disable()
        try:
            build()
        finally:
            gc.freeze()
            gc.enable()

    workflow._build_dag = build_uncollected
    dag.dag_processors = ()
    dag.check_directory_outputs = lambda: None
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        dag.update_conda_envs = lambda: None
    jobs.Job.is_pipe_or_service_input = lambda job, path: False
    for module in (common, rules):
        module.get_function_params = _parameters


def _parameters(function: Callable) -> Any:
    """Return the parameters of a function by name, as Snakemake's get_function_params."""
    plain = getattr(function, "__func__", function)  # as a bound method is new at each access
    if not isinstance(plain, FunctionType):
        return get_function_params(function)
    if plain not in _signatures:
        _signatures[plain] = get_function_params(function)
    return _signatures[plain]


_signatures: dict[FunctionType, Any] = {}  # by function; those in rules are few
