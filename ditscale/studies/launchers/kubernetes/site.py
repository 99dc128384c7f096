"""The keys of a Kubernetes site, checked against Kubernetes's rules for names and labels."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from ditscale.errors import UserError
from ditscale.section import Count, Section
from ditscale.studies.launchers.protocol import SiteSettings, Variable

DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([KMGTP]i?)?$")]


class Volume(Section):
    """A PersistentVolumeClaim, and where the pods have it."""

    claim: DnsName
    path: str

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, path: str) -> str:
        if not path.startswith("/") or ":" in path or ".." in path.split("/"):
            raise UserError(f"volumes: path {path!r} is not a path in a pod; give an absolute path without ':' or '..'")
        return path.rstrip("/") or "/"


class KubernetesSite(SiteSettings):
    """A cluster with the JobSet controller. A run is a JobSet, a node of it a pod."""

    elsewhere: ClassVar[str] = ""

    launcher: Literal["kubernetes"]
    image: Annotated[str, Field(pattern=r"^[^\s]+$")]                          # has Python and ditscale
    volumes: list[Volume]                                                      # one has the study, at the path that it has here too
    context: str | None = None                                                 # of kubectl; default: its current one
    namespace: DnsLabel = "default"
    queue: LabelValue | None = None                                            # a LocalQueue of Kueue's
    gpu_resource: LabelKey = "nvidia.com/gpu"                                  # or amd.com/gpu
    gpu: str | None = None                                                     # what a GPU is called, for the price: H100
    cpus_per_task: Count = Field(default=1, gt=0)                              # a task is a rank
    memory: Quantity | None = None                                             # of a pod
    shared_memory: Quantity | None = None                                      # largest /dev/shm; default: what the pod may have
    time: Count | None = Field(default=None, gt=0)                             # minutes of one start; a run goes on after it
    node_selector: dict[LabelKey, LabelValue] = {}
    tolerations: list[LabelKey] = []                                           # taints, by key
    setup: list[str] = []                                                      # shell lines before a run
    environment: dict[Variable, str | int | float] = {}
    python: str = "python3"

    @field_validator("volumes")
    @classmethod
    def _at_different_paths(cls, volumes: list[Volume]) -> list[Volume]:
        paths = [volume.path for volume in volumes]
        if not volumes or len(set(paths)) < len(paths) or "/dev/shm" in paths:
            raise UserError("volumes: give at least one claim, each at a path of its own other than /dev/shm; "
                            "write - {claim: NAME, path: /shared}")
        return volumes

    @property
    def gpu_name(self) -> str | None:
        return self.gpu

    def check_reaches(self, folder: Path) -> None:
        """Raises UserError where the pods would not have this folder at its path."""
        if not any(folder.is_relative_to(volume.path) for volume in self.volumes):
            mounted = ", ".join(f"{volume.claim} at {volume.path}" for volume in self.volumes)
            raise UserError(f"{folder} is on none of the site's volumes ({mounted}): pods need the study, and the folder that "
                            "launch is called from, at the paths that they have here")
