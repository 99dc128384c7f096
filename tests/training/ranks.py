"""Train runs one after another on the ranks of one process group: ``python ranks.py RUN_DIR...``, once a rank.

Each rank leaves in the run directory how many fp32 numbers it held: ``averaged-RANK.txt`` for averages and the teacher, and
``masters-RANK.txt`` for masters, of which AdamW's moments are twice as many. Not a test: test files start it with ``on_ranks``,
as each start of torch and DeepSpeed takes many seconds.
"""

import math
import os
import sys
from dataclasses import replace

import torch

from ditscale.config import resolve
from ditscale.rundir import RunDir
from ditscale.training import loop
from ditscale.training.agreement import check_agreement
from ditscale.training.checkpoint.branch import branch_off
from ditscale.training.distributed import join_world
from ditscale.training.ema.ema import ShardedEma
from ditscale.training.loop import train
from ditscale.training.zero import private, zero


def main(paths: list[str]) -> None:
    world = join_world()
    for word in os.environ.get("GONE", "").split():                            # DeepSpeed without these private names
        setattr(private, word, replace(getattr(private, word), name="gone_in_the_next_version"))
    if "POISON" in os.environ:
        poison(world.rank, *os.environ["POISON"].split())
    for path in paths:
        run = RunDir(path)
        values = run.read_record()["config"]
        if "DISAGREE" in os.environ and world.rank == 1:
            values["train"]["lr"] *= 2
        config = resolve(values, path)
        check_agreement(config, world)
        if config.parent and world.is_main:
            branch_off(run, config)
        world.agree(None)
        count_held(run, world.rank)
        if "STOP_AFTER" in os.environ:
            calls = iter(range(1, 10**6))
            assert not train(config, run, world, stop=lambda: next(calls) >= int(os.environ["STOP_AFTER"]))
            if "STAY_STOPPED" in os.environ:
                continue
        assert train(config, run, world)


def count_held(run: RunDir, rank: int, make_average=ShardedEma.__init__, destroy=zero.destroy) -> None:
    averages = []

    def make_counted(self, layout):
        make_average(self, layout)
        averages.extend(self.flats)

    def count_and_destroy(engine):
        masters = engine.made.optimizer.state                                 # at stage 3 its groups are empty between steps
        held = sum(master.numel() for master in masters)
        moments = [value for state in masters.values() for name, value in state.items() if name != "step"]
        assert {value.dtype for value in (*masters, *moments, *averages)} == {torch.float32}
        if type(engine.made.optimizer) is torch.optim.AdamW:
            assert sum(value.numel() for value in moments) == 2 * held
        (run.path / f"masters-{rank}.txt").write_text(str(held))
        (run.path / f"averaged-{rank}.txt").write_text(str(sum(flat.numel() for flat in averages)))
        averages.clear()
        destroy(engine)
    ShardedEma.__init__, zero.destroy = make_counted, count_and_destroy


def poison(here: int, rank: str, passes: str, name: str) -> None:
    """One NaN in a parameter's gradient, on one rank, in one backward pass."""
    build, calls = loop.build_model, iter(range(1, 10**6))

    def spoil(gradient):
        if next(calls) != int(passes):
            return gradient
        gradient = gradient.clone()
        gradient.view(-1)[7] = math.nan
        return gradient

    def build_poisoned(config):
        model = build(config)
        if here == int(rank):
            model.get_parameter(name).register_hook(spoil)
        return model
    loop.build_model = build_poisoned


if __name__ == "__main__":
    main(sys.argv[1:])
