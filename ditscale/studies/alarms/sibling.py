"""A run of a study with what alarms need to know of it. Nothing is read from the run's logs here."""

from dataclasses import dataclass
from functools import cached_property

from ditscale.config import RunConfig
from ditscale.cost.runs import plain_tokens_per_parameter, run_card
from ditscale.rundir import DONE, QUEUED, RunDir


@dataclass(frozen=True, eq=False)
class Sibling:
    run: RunDir
    config: RunConfig

    @cached_property
    def state(self) -> str:
        return self.run.status()["state"]

    @property
    def is_done(self) -> bool:
        return self.state == DONE

    @property
    def is_on_its_way(self) -> bool:
        """Whether it has started and is not done, be it running or stopped."""
        return self.state not in (DONE, QUEUED)

    @property
    def series(self) -> tuple:
        """Runs of one series differ in size, length, learning rate, batch and seed, and can be compared in the course of training."""
        config = self.config
        return (config.objective.model_dump_json(), config.formulation.model_dump_json(), config.model.model_dump_json(exclude={"name"}),
                config.train.optimizer.model_dump_json(), config.data.name, config.data.resolution, config.train.lr_schedule, config.train.ema_decay)

    @cached_property
    def size(self) -> float:
        """Forward FLOPs per image."""
        return 2.0 * run_card(self.config).macs

    @cached_property
    def tokens_per_parameter(self) -> float:
        return plain_tokens_per_parameter(self.config, self.config.train.images)

    def share(self, images_seen: float) -> float:
        """The share of its training done."""
        return images_seen / self.config.train.images
