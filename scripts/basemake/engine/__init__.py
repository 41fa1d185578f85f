"""The one package that knows Snakemake's internals.

It makes records decide which jobs a run does, spares Snakemake work that grows with the number of
jobs, shows a run to people, holds a lock while it executes, sets what the jobs that run at the same
time may use, and returns the graph of jobs to commands.

Snakemake 9.27 cannot tell which jobs are stale. It stores a job's params in .snakemake/metadata
even when the job failed (`Job.postprocess` in jobs.py calls `persistence.finished` on errors, too),
restores the `update` outputs of a failed job with the current time, loses its metadata when
.snakemake is deleted, and compares the times of files. So its triggers are switched off, inputs are
marked as `ancient`, which ignores their times, and each job whose outputs' records disagree with
the rule's params and inputs is forced.
"""

import snakemake.cli  # noqa: F401 - first, as its modules import one another in a circle
