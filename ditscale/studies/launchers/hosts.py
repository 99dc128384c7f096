"""Runs one after the other on the hosts of a DeepSpeed hostfile, by pdsh and ssh; see docs/training.md, "Several hosts"."""

import re
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from ditscale.errors import UserError, count
from ditscale.studies.launchers.local import commands
from ditscale.studies.launchers.process import Command, deepspeed, worker_words
from ditscale.studies.launchers.protocol import Shape, SiteSettings, shape_of
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.ports import free_port

LINE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.:@-]*)\s+slots=([1-9][0-9]*)")     # no host that ssh would take for an option
HARMLESS = re.compile(r"[A-Za-z0-9_.:@+=,/-]+")                                 # nor %, which pdsh replaces


class HostsSite(SiteSettings):
    """Hosts without a queue."""

    elsewhere: ClassVar[str] = ". Variables for deepspeed's hosts go into its .deepspeed_env"

    launcher: Literal["deepspeed"]
    hostfile: str | None = None                                                # lines of "host slots=8"

    @model_validator(mode="after")
    def _needs_hosts(self):
        if self.hostfile is None:
            raise UserError("launcher: deepspeed needs hostfile, a file with a line 'host slots=8' for each host")
        return self


class Launcher:
    """See protocol.Foreground."""

    settings = HostsSite
    tool = ("pdsh", "pdsh (multi-node DeepSpeed over ssh)")

    def places(self, site, runs, machine) -> "Hosts":
        return Hosts(site, runs)

    def show(self, spec, missing, site, machine):
        return commands(missing, self.places(site, missing, machine))

    def close(self):
        """Nothing stays."""


class Hosts:
    """A single place with all hosts: a run uses the first hosts of the file, as many as it needs.

    Raises:
        UserError: the hostfile cannot be read, a run needs more than it has, or a folder's name has special characters of a shell.
    """

    def __init__(self, site: HostsSite, runs: list[PlannedRun]):
        self.hostfile, self.slots = site.hostfile, read_hostfile(site.hostfile)
        self.places = [None]
        for planned in runs:
            self._shape(planned)
        for path in (Path.cwd(), *(planned.run.path for planned in runs)):
            if not HARMLESS.fullmatch(str(path)):
                raise UserError(f"{str(path)!r} is passed to a shell on each host by deepspeed, without quotes; give a folder whose name is "
                                "made of letters, digits and _ . : @ + = , / -")

    def command(self, planned: PlannedRun, place, evaluates: bool) -> Command:
        """For a run over the hosts that it needs."""
        shape = self._shape(planned)
        return Command((deepspeed(), "--hostfile", self.hostfile, "--num_nodes", str(shape.nodes), "--num_gpus",
                        str(shape.ranks_per_node), "--master_port", str(free_port()), *worker_words(planned, evaluates)), {})

    def _shape(self, planned: PlannedRun) -> Shape:
        shape = shape_of(planned.config, self.slots[0])
        if shape.nodes > len(self.slots):
            ranks = planned.config.resources.accelerators_per_run
            raise UserError(f"resources.accelerators_per_run is {ranks} but {self.hostfile} has {count(len(self.slots), 'host')} of "
                            f"{count(self.slots[0], 'slot')}")
        return shape


def read_hostfile(path: str) -> list[int]:
    """The slots of each host, in order.

    Raises:
        UserError: it cannot be read, a line is not a host, or hosts differ in their slots (a run needs equal shares on all).
    """
    try:
        lines = [line.split("#")[0].strip() for line in Path(path).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"hostfile: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = {}
    for line in filter(None, lines):
        match = LINE.fullmatch(line)
        if not match:
            raise UserError(f"hostfile: {path} has the line {line!r}; write 'host slots=8'")
        if match[1] in found:
            raise UserError(f"hostfile: {path} has the host {match[1]} twice")
        found[match[1]] = int(match[2])
    if len(set(found.values())) != 1:
        differing = ", ".join(f"{host} {slots}" for host, slots in found.items())
        raise UserError(f"hostfile: the hosts of {path} must have equal slots; it has {differing or 'no host'}")
    return list(found.values())
