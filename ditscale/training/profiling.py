"""``resources.profile_steps``: torch's profiler for a few steps, one file per rank, for TensorBoard or Perfetto."""

import torch

from ditscale.config import RunConfig
from ditscale.ranks import World
from ditscale.rundir import RunDir


class Profiler:
    """Call ``step`` before each step; between the two numbers of ``resources.profile_steps`` it records, and then writes the file.

    Results stay the same, but the profiler slows the recorded steps.
    """

    def __init__(self, run: RunDir, world: World, config: RunConfig):
        self.first, self.last = config.resources.profile_steps or (0, 0)
        self.path = run.path / "profile" / f"rank-{world.rank}.steps-{self.first}-{self.last}.pt.trace.json"
        self.recorded: torch.profiler.profile | None = None
        self.named: torch.profiler.record_function | None = None

    def step(self, steps: int) -> None:
        """Called with the number of steps done."""
        if steps >= self.last:
            self.close()
        elif steps >= self.first:
            if self.recorded is None:
                self.recorded = torch.profiler.profile(activities=torch.profiler.supported_activities())
                self.recorded.start()
            self._name(f"step {steps + 1}")

    def close(self) -> None:
        """Writes the recording, if there is one."""
        if self.recorded:
            self._name(None)
            self.recorded.stop()
            self.path.parent.mkdir(exist_ok=True)
            self.recorded.export_chrome_trace(str(self.path))
            self.recorded = None

    def _name(self, name: str | None) -> None:
        """Names the following part of the recording."""
        if self.named:
            self.named.__exit__(None, None, None)
        self.named = torch.profiler.record_function(name) if name else None
        if self.named:
            self.named.__enter__()
