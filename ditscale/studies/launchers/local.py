"""Runs on this machine, distributed over its GPUs or cores: forked from one warm process, or with the ``deepspeed`` command."""

import os
from collections.abc import Iterator

from ditscale.cost.hardware import Machine
from ditscale.rundir import DONE
from ditscale.studies.launchers.process import Command, deepspeed, worker_arguments, worker_words
from ditscale.studies.launchers.protocol import Places
from ditscale.studies.launchers.sharing import runs_per_accelerator, slots
from ditscale.studies.launchers.warm import ForkServer, WarmCommand
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.ports import free_port


class Launcher:
    """See protocol.Foreground."""

    settings, tool = None, None

    def __init__(self):
        self.server = ForkServer()                                             # of all phases

    def places(self, site, runs, machine) -> "ThisMachine":
        return ThisMachine(machine, runs, self.server)

    def close(self):
        self.server.close()

    def show(self, spec, missing, site, machine):
        return commands(missing, self.places(site, missing, machine))


def commands(missing: list[PlannedRun], where: Places) -> Iterator[str]:
    """The commands of runs in the foreground, one a line."""
    for number, planned in enumerate(missing):
        place, trained = where.places[number % len(where.places)], planned.run.status()["state"] == DONE
        yield str(where.command(planned, place, evaluates=trained))


class ThisMachine:
    """``places``, each for one run at a time, and the command that works on a run there.

    A run of one rank is forked from ``server``; one of more, and each where there is no server, starts with the ``deepspeed`` command.
    """

    def __init__(self, machine: Machine, runs: list[PlannedRun], server: ForkServer | None = None):
        self.machine, self.server, self.sharing = machine, server, runs_per_accelerator(machine, runs)
        apart = slots(machine, runs) // self.sharing
        per_run = max(1, machine.devices // apart)
        self.places = [tuple(range(i * per_run, (i + 1) * per_run)) for i in range(apart)] * self.sharing

    def command(self, planned: PlannedRun, devices: tuple[int, ...], evaluates: bool) -> Command | WarmCommand:
        """For a run on these devices."""
        ranks = planned.config.resources.accelerators_per_run
        cold = self.command_of(worker_words(planned, evaluates), devices, ranks)
        if self.server is None or ranks > 1:
            return cold
        return WarmCommand(self.server, cold, worker_arguments(planned, evaluates), devices[:1])

    def command_of(self, words: tuple[str, ...], devices: tuple[int, ...], ranks: int) -> Command:
        """``deepspeed`` with these words after its options, so many ranks on these devices."""
        where = ("--num_accelerators", str(ranks))
        if self.machine.kind == "gpu":
            where = ("--include", "localhost:" + ",".join(map(str, devices[:ranks])))
        threads = max(1, len(devices) * self.machine.threads_per_device // (ranks * self.sharing))
        environment = {"OMP_NUM_THREADS": str(threads)}
        if self.machine.kind == "cpu" and "DS_ACCELERATOR" not in os.environ:
            environment["DS_ACCELERATOR"] = "cpu"
        return Command((deepspeed(), *where, "--master_port", str(free_port()), *words), environment)
