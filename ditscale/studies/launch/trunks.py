"""Branches among the chosen runs whose trunk is not chosen and has not run: what must run first, and the command that runs both."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ditscale.cost.runs import training_flops
from ditscale.dotted import parse_override
from ditscale.errors import count
from ditscale.rundir import RunDir
from ditscale.studies.launch.launch import can_start, is_complete
from ditscale.studies.launchers import live_jobs
from ditscale.studies.spec.branches import IMAGES
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun, expand, load_spec
from ditscale.training.checkpoint.branch import why_never


@dataclass(frozen=True)
class Absent:
    """Branches that cannot start, their trunks, which none of the chosen runs is, and the arguments that choose both."""

    branches: list[PlannedRun]
    trunks: list[PlannedRun]
    arguments: tuple[str, ...]

    @property
    def cost(self) -> str:
        """``3 trunks (8.39e+11 training FLOPs)``."""
        flops = sum(training_flops(trunk.config, trunk.config.train.images) for trunk in self.trunks)
        return f"{count(len(self.trunks), 'trunk')} ({flops:.3g} training FLOPs)"

    def planned(self) -> str:
        """For ``plan``."""
        return (f"Not in the total: {self.cost} must run first, for {count(len(self.branches), 'branch', 'branches')} of these runs. "
                f"To plan both: {shlex.join(('ditscale', 'plan', *self.arguments))}")

    def refused(self) -> str:
        """For ``launch``."""
        return (f"not started: {count(len(self.branches), 'branch', 'branches')} of {self.cost}, which this selection does not train. "
                f"To run both: {shlex.join(('ditscale', 'launch', *self.arguments))}")


def absent_trunks(spec: Spec, runs: Sequence[PlannedRun], overrides: Sequence[str], source: str) -> Absent | None:
    """None where each branch among these runs has its trunk among them, has what it starts from, or waits for a trunk that is active now."""
    there = {planned.run_id for planned in runs}
    waiting = [planned for planned in runs if planned.config.parent and planned.config.parent.run not in there and not is_complete(planned)
               and not can_start(planned) and not why_never(planned.run, planned.config)]
    jobs = live_jobs(spec) if waiting else {}
    branches = [planned for planned in waiting if not _is_active(planned, jobs)]
    if not branches:
        return None
    others = tuple(text for text in overrides if parse_override(text)[0] != IMAGES)
    names = {planned.config.parent.run for planned in branches}
    trunks = [planned for planned in expand(load_spec(source, others), source) if planned.run_id in names]
    lengths = sorted({planned.config.train.images for planned in (*runs, *trunks)})
    chosen = (f"{IMAGES}=[{','.join(map(str, lengths))}]",) if len(others) < len(overrides) else ()
    return Absent(branches, trunks, (source, *others, *chosen))


def _is_active(planned: PlannedRun, jobs: dict) -> bool:
    trunk = planned.config.parent.run
    return trunk in jobs or RunDir(planned.run.path.parent / trunk).is_locked()
