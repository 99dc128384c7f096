"""The interface of a launcher and its shared parts: a site's common keys, a job, the shape of a run, calling a queue's command."""

import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import AfterValidator, Field

from ditscale.config import RunConfig
from ditscale.errors import UserError, count
from ditscale.rundir import DONE
from ditscale.section import Count, Section

if TYPE_CHECKING:
    from ditscale.cost.hardware import Machine
    from ditscale.studies.launchers.process import Command
    from ditscale.studies.launchers.warm import WarmCommand
    from ditscale.studies.spec.file import Spec
    from ditscale.studies.spec.spec import PlannedRun

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def one_word(where: str) -> Callable[[str], str]:
    """A check for text that is inserted unchanged somewhere: one printable word without quotes."""
    def check(text: str) -> str:
        if not text or any(sign.isspace() or not sign.isprintable() or sign in "'\"\\" for sign in text):
            raise UserError(f"{text!r} goes into {where}; give one word without spaces or quotes")
        return text
    return check


def is_command(text: str) -> str:
    """A check of words for a shell."""
    try:
        shlex.split(text)
    except ValueError as error:
        raise UserError(f"container: {text!r} is not a command: {str(error).lower()}") from None
    return text


class SiteSettings(Section):
    """The keys of every site; a launcher adds its own, and has its name in ``launcher``."""

    elsewhere: ClassVar[str] = ""                                              # what to say after a key of another launcher's

    name: Annotated[str, AfterValidator(one_word("the record of what was submitted"))]
    gpus_per_node: Count = Field(default=0, ge=0)                              # 0: ranks are CPU processes, all on one node
    price_per_gpu_hour: float | None = Field(default=None, gt=0)

    @property
    def gpu_name(self) -> str | None:
        """What the GPUs are called, where the site says it; the plan's table of hardware is asked with it."""
        return None


@dataclass(frozen=True, order=True)
class Shape:
    """The resources of one run: number of nodes, and ranks per node."""

    nodes: int
    ranks_per_node: int


def shape_of(config: RunConfig, per_node: int) -> Shape:
    """The smallest number of nodes with ``per_node`` ranks for a run, filled evenly; 0 means one node with any number of ranks.

    Raises:
        UserError: the ranks do not fill the nodes evenly.
    """
    ranks = config.resources.accelerators_per_run
    nodes = -(-ranks // per_node) if per_node else 1
    if ranks % nodes:
        raise UserError(f"resources.accelerators_per_run {ranks} does not fill {count(nodes, 'node')} of {per_node} evenly; "
                        f"{per_node * (nodes - 1)} or {per_node * nodes} would")
    return Shape(nodes, ranks // nodes)


def check_margin(margin_seconds: float, minutes: int | None) -> None:
    """Raises UserError if a run would have to stop before it begins; ``minutes`` is the site's limit per start."""
    if minutes is not None and margin_seconds >= 60 * minutes:
        raise UserError(f"resources.time_margin_minutes {margin_seconds / 60:g} leaves no time of the site's time {minutes}")


def steps(planned: "PlannedRun") -> tuple[str, ...]:
    """The worker's arguments in a separate job, one word per start; see launch/worker.py."""
    if planned.config.resources.evaluate != "separately":
        return ("",)
    return ("evaluate",) if planned.run.status()["state"] == DONE else ("", "evaluate")


@dataclass(frozen=True)
class Job:
    """One run in a queue: its job's id, the queue's word for its state (``PENDING``, ``RUNNING``, ...), and whose it is."""

    id: str
    state: str
    queue: "Queue"


class Places(Protocol):
    """Where a foreground launcher runs: ``places``, each for one run at a time, and the command that works on a run there."""

    places: list[Any]

    def command(self, planned: "PlannedRun", place: Any, evaluates: bool) -> "Command | WarmCommand": ...


class Foreground(Protocol):
    """A launcher that runs commands as children of this process."""

    @property
    def settings(self) -> type[SiteSettings] | None:
        """The section of a site's file; None: needs no site."""

    @property
    def tool(self) -> tuple[str, str] | None:
        """A command that it needs, and its name in ``ditscale doctor``."""

    def places(self, site: SiteSettings | None, runs: "list[PlannedRun]", machine: "Machine") -> Places:
        """Raises UserError if one of the runs does not fit there."""

    def show(self, spec: "Spec", missing: "list[PlannedRun]", site: SiteSettings | None, machine: "Machine") -> Iterator[str]:
        """Every command, as text for a shell. Writes nothing."""

    def close(self) -> None:
        """Keep nothing for runs to come: each that starts from here on is a fresh process."""


class Queue(Protocol):
    """A launcher that hands runs to a queue and returns. What it submits and records is in ``<study>/<folder>/``."""

    @property
    def settings(self) -> type[SiteSettings]:
        """The section of a site's file."""

    tool: tuple[str, str]
    label: str                                                                 # the queue's name in sentences
    folder: str
    job_times: tuple[str, str]                                                 # variables: a job's start and limit, seconds since 1970

    def submit(self, spec: "Spec", missing: "list[PlannedRun]", site: SiteSettings,
               prepare: "Callable[[PlannedRun], None]") -> Iterator[str]:
        """Submits the runs; yields a line for each job.

        ``prepare`` is called for a run before it is submitted, to create its directory.

        Raises:
            UserError: the queue refuses (with its message).
        """

    def live(self, spec: "Spec") -> dict[str, Job]:
        """The waiting and running runs, by run id. Does not call the queue if nothing was submitted or the queue is not available here."""

    def stop(self, job: Job) -> str:
        """Removes a waiting job from the queue, or makes a running one save a checkpoint and end; returns which."""

    def show(self, spec: "Spec", missing: "list[PlannedRun]", site: SiteSettings, machine: "Machine") -> Iterator[str]:
        """Every script and command, as text for a shell. Writes nothing."""


def ask(label: str, *command: str, folder: Path | None = None, text: str | None = None) -> str:
    """The output of a queue's command; ``text`` is its standard input.

    Raises:
        UserError: it is not installed here, or refuses (with its message).
    """
    stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **stdin)
    except FileNotFoundError:
        raise UserError(f"the '{command[0]}' command is not found; {label} is not installed here. "
                        "--launcher print shows what would be submitted") from None
    if done.returncode:
        message = "; ".join(line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip())
        raise UserError(f"{command[0]} failed: {message or f'exit code {done.returncode}'}")
    return done.stdout
