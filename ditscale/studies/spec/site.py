"""A site is a small YAML file that says how runs are started on a cluster: with SLURM, or on the hosts of a hostfile.

Nothing of it is part of a run's identity. ``sweeps/sites/`` has an example of each kind.
"""

import shlex
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ditscale.config import RunConfig
from ditscale.errors import UserError
from ditscale.section import Count, Section, validate
from ditscale.yamlfile import read_yaml

# Options of sbatch that other keys say, or that the script's working rests on.
OURS = ("job-name", "array", "nodes", "ntasks", "ntasks-per-node", "gres", "cpus-per-task", "time", "signal", "requeue",
        "no-requeue", "open-mode", "output", "partition", "account", "qos", "chdir")


def _one_word(text: str) -> str:
    if not text or any(sign.isspace() or not sign.isprintable() or sign in "'\"\\" for sign in text):
        raise UserError(f"{text!r} goes into an #SBATCH line; give one word without spaces or quotes")
    return text


def _sbatch_option(text: str) -> str:
    name = text.removeprefix("--").split("=")[0].split(" ")[0]
    if not text.startswith("--") or not text.isprintable():
        raise UserError(f"extra_sbatch: {text!r} is not an option of sbatch; write for example --constraint=a100")
    if name in OURS:
        raise UserError(f"extra_sbatch: --{name} is set by ditscale, from the other keys of the site and the run's resources")
    return text


def _command(text: str) -> str:
    try:
        shlex.split(text)
    except ValueError as error:
        raise UserError(f"container: {text!r} is not a command: {str(error).lower()}") from None
    return text


Word = Annotated[str, AfterValidator(_one_word)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Site(Section):
    """A cluster as its file says it. Keys of SLURM are left out where the cluster's default is right."""

    name: Word
    launcher: Literal["slurm", "deepspeed"] = "slurm"
    hostfile: str | None = None                                                # deepspeed's: lines of "host slots=8"
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    gpus_per_node: Count = Field(0, ge=0)                                      # 0: ranks are CPU processes, all on one node
    gres: Word = "gpu"                                                         # what a GPU is called: gpu, gpu:h100
    cpus_per_task: Count = Field(1, gt=0)                                      # a task is a rank
    time: Count | None = Field(None, gt=0)                                     # minutes of one start; a run goes on after it
    array_limit: Count = Field(1000, gt=0)                                     # largest array: SLURM's MaxArraySize less one
    runs_at_once: Count | None = Field(None, gt=0)                             # of one array
    extra_sbatch: list[Annotated[str, AfterValidator(_sbatch_option)]] = []    # such as --constraint=a100
    setup: list[str] = []                                                      # shell lines before a run: modules, activation
    environment: dict[Variable, str | int | float] = {}
    container: Annotated[str, AfterValidator(_command)] = ""                   # what stands before python: apptainer exec x.sif
    python: str | None = None                                                  # default: the one that runs ditscale launch
    price_per_gpu_hour: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check_launcher(self):
        if self.launcher == "slurm" and self.hostfile is not None:
            raise UserError("hostfile is for launcher: deepspeed; SLURM says itself which hosts a run has")
        if self.launcher == "deepspeed":
            if self.hostfile is None:
                raise UserError("launcher: deepspeed needs hostfile, a file with a line 'host slots=8' for each host")
            known = {"name", "launcher", "hostfile", "gpus_per_node", "price_per_gpu_hour"}
            if extra := sorted(self.model_fields_set - known):
                raise UserError(f"{extra[0]} is for launcher: slurm. Variables for deepspeed's hosts go into its .deepspeed_env")
        return self


@dataclass(frozen=True, order=True)
class Shape:
    """What one run asks for: so many nodes, with so many ranks on each."""

    nodes: int
    ranks_per_node: int


def load_site(path) -> Site:
    """Read a site's file. Raises UserError: the key, the value and what would work."""
    return validate(Site, read_yaml(path), str(path))


def shape_of(config: RunConfig, per_node: int) -> Shape:
    """The fewest nodes of ``per_node`` ranks that hold a run, filled evenly; 0 stands for one node that holds any number.

    Raises:
        UserError: the ranks do not fill the nodes evenly.
    """
    ranks = config.resources.accelerators_per_run
    nodes = -(-ranks // per_node) if per_node else 1
    if ranks % nodes:
        raise UserError(f"resources.accelerators_per_run {ranks} does not fill {nodes} nodes of {per_node} evenly; "
                        f"{per_node * (nodes - 1)} or {per_node * nodes} would")
    return Shape(nodes, ranks // nodes)
