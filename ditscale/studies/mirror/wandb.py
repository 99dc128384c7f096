"""Weights & Biases, as offline runs in ``wandb/`` (or ``WANDB_DIR``): ``wandb sync`` uploads them from any machine with a network.

A call that adds lines makes another offline run with the same id, which ``wandb sync`` joins to the first.
"""

import wandb

from ditscale.rundir import FAILED
from ditscale.studies.mirror.mirror import Point, RunFacts


class Mirror:
    ERRORS = (wandb.errors.Error, OSError)
    hint = "W&B: upload with `wandb sync`"

    def __init__(self, study: str):
        self.study = study
        self.place = f"project {study}"

    def has(self, name: str) -> None:
        return None

    def send(self, name: str, facts: RunFacts, points: list[Point], sent: int) -> None:
        # Facts about this machine are not sent: the runs were trained elsewhere.
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True)
        run = wandb.init(project=self.study, id=name, name=name, resume="allow", mode="offline", settings=quiet,
                         config={**facts.config, "passports": facts.passports})
        run.define_metric("images_seen")
        run.define_metric("*", step_metric="images_seen")
        for step, point in enumerate(points, start=sent):                      # W&B's step only counts lines
            run.log(point.values, step=step)
        run.finish(exit_code=1 if facts.state == FAILED else 0)
        wandb.teardown()                                                       # finish() returns before the file is written
