"""The keys of a site with SLURM."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from ditscale.errors import UserError
from ditscale.section import Count
from ditscale.studies.launchers.protocol import SiteSettings, Variable, is_command, one_word

# Options of sbatch set by other keys, or required by the script.
OURS = ("job-name", "array", "nodes", "ntasks", "ntasks-per-node", "gres", "cpus-per-task", "time", "signal", "requeue",
        "no-requeue", "open-mode", "output", "partition", "account", "qos", "chdir")


def _sbatch_option(text: str) -> str:
    name = text.removeprefix("--").split("=")[0].split(" ")[0]
    if not text.startswith("--") or not text.isprintable():
        raise UserError(f"extra_sbatch: {text!r} is not an option of sbatch; write for example --constraint=a100")
    if name in OURS:
        raise UserError(f"extra_sbatch: --{name} is set by ditscale, from the other keys of the site and the run's resources")
    return text


Word = Annotated[str, AfterValidator(one_word("an #SBATCH line"))]


class SlurmSite(SiteSettings):
    """A cluster as described in its file. Leave out keys to use the cluster's default."""

    elsewhere: ClassVar[str] = "; SLURM itself chooses the hosts of a run"

    name: Word
    launcher: Literal["slurm"] = "slurm"
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    gres: Word = "gpu"                                                         # what a GPU is called: gpu, gpu:h100
    cpus_per_task: Count = Field(default=1, gt=0)                              # a task is a rank
    time: Count | None = Field(default=None, gt=0)                             # minutes of one start; a run goes on after it
    array_limit: Count = Field(default=1000, gt=0)                             # largest array: SLURM's MaxArraySize less one
    runs_at_once: Count | None = Field(default=None, gt=0)                     # of one array
    extra_sbatch: list[Annotated[str, AfterValidator(_sbatch_option)]] = []    # such as --constraint=a100
    setup: list[str] = []                                                      # shell lines before a run: modules, activation
    environment: dict[Variable, str | int | float] = {}
    container: Annotated[str, AfterValidator(is_command)] = ""                 # prefix of python: apptainer exec x.sif
    python: str | None = None                                                  # default: the one that runs ditscale launch

    @property
    def gpu_name(self) -> str:
        return self.gres
