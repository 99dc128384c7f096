"""What probes found: seconds and memory of each distinct shape of a study's runs on a machine. ``probing.py`` measures them.

Runs that differ only in seed, length, learning rate or scoring have one shape and are probed once. Results are stored
in ``probes.json`` in the study's directory, by machine.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ditscale.config import RunConfig
from ditscale.cost.hardware import Machine
from ditscale.errors import UserError
from ditscale.studies.spec.file import Spec

RESULT, KEPT = "probe.json", "probes.json"                                     # of a probe, written by probe_worker; of a study
SAME_SPEED: dict[str, bool | set[str]] = {
    "seed": True, "evaluation": True, "parent": True,
    "train": {"images", "checkpoint_every_images", "lr", "warmup_images", "lr_schedule", "lr_end", "lr_decay",
              "lr_decay_share", "betas", "weight_decay", "weight_decay_form"},
    "resources": {"keep_checkpoints", "keep_every_images", "branch_images", "time_limit_minutes", "time_margin_minutes", "skip_limit", "evaluate"}}


@dataclass(frozen=True)
class Probe:
    """The cost of one rank of a run: seconds per step, and peak bytes."""

    step_seconds: float
    memory_bytes: int
    micro_batch: int
    steps: int
    at_once: int                                                               # copies that ran at the same time


def read_probes(spec: Spec, machine: Machine) -> dict[str, Probe]:
    """The probes of this study on this kind of machine, by ``shape_of``.

    Raises:
        UserError: the file is damaged.
    """
    path = spec.directory / KEPT
    try:
        return {shape: Probe(**values) for shape, values in read_probe(path).get(machine.name, {}).items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged; remove it and measure again with --probe") from None


def shape_of(config: RunConfig) -> str:
    """8 hex digits of all settings that affect a step's time and memory."""
    seen = config.model_dump(mode="json", exclude=SAME_SPEED)
    if config.resources.runs_per_accelerator == 1:                             # so that what was measured before it existed is found
        del seen["resources"]["runs_per_accelerator"]
    shape = json.dumps(seen, sort_keys=True)
    return hashlib.sha256(shape.encode()).hexdigest()[:8]


def read_probe(path: Path) -> dict:
    """A file that probes write; empty where there is none."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
