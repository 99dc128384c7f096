"""Launchers: a launcher is a module (or folder) here with a class ``Launcher``, and a line in ``MODULES``.

``protocol.py`` defines the interface. There are two kinds. One works in the foreground: ``places``, each for one run at a time, and
the command that works on a run there (local, hosts). The other hands runs to a queue: ``submit``, ``live`` (which runs the queue
has), ``stop``. Both have ``settings``, their section of a site's file, and ``show``, the text of ``--launcher print``.
Commands, plans and the rest of ``studies/`` use launchers only through this module, never by name.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ditscale.studies.launchers.hosts import HostsSite
    from ditscale.studies.launchers.kubernetes.site import KubernetesSite
    from ditscale.studies.launchers.protocol import Job
    from ditscale.studies.launchers.slurm.site import SlurmSite

    Site = HostsSite | KubernetesSite | SlurmSite                              # of each launcher that has a section, for type checkers

MODULES = {"local": "local", "deepspeed": "hosts", "slurm": "slurm", "kubernetes": "kubernetes"}  # ``launcher:`` of a site -> module
DEFAULT = "slurm"                                                              # of a site without a key launcher
LOCAL = "local"                                                                # without a site


def launcher(name: str):
    """The launcher of this name; its module is loaded on use, as the command line needs only the names."""
    return import_module(f"{__name__}.{MODULES[name]}").Launcher()


def launchers() -> list:
    """All launchers, in the order of the list."""
    return [launcher(name) for name in MODULES]


def queues() -> list:
    """The launchers that hand runs to a queue."""
    return [one for one in launchers() if hasattr(one, "submit")]


def live_jobs(spec) -> "dict[str, Job]":
    """The runs of a study in any queue, by run id, each with its ``Job``.

    Raises:
        UserError: a queue does not answer.
    """
    return {run_id: job for queue in queues() for run_id, job in queue.live(spec).items()}


def job_times(environment) -> tuple[float, float] | None:
    """The start and the time limit of this process's job, in Unix time, from its queue's environment variables."""
    for queue in queues():
        begin, end = (environment.get(name) for name in queue.job_times)
        if end:
            return float(begin or "-inf"), float(end)
    return None
