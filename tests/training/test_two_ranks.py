"""Two ranks: a resumed run is bit for bit the one that was not stopped, and the average is that of its masters."""

import pytest
import torch
from safetensors.torch import load_file

from ditscale.objectives.from_config import build_model
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.zero.zero import forward_dtype

pytestmark = pytest.mark.usefixtures("in_repository")

STEPS = 8
CASES = [("zero1", "bf16", "discriminative"), ("zero2", "bf16", "baseline"), ("zero1", "fp32", "baseline"), ("zero3", "fp32", "masked")]


@pytest.fixture
def cases(make_run):
    """Runs of every case with a checkpoint after each step: ``cases("name")``."""
    def make(name):
        return [make_run(f"{name}-{index}", {
            "resources.deepspeed": f"ds_configs/{strategy}.json", "train.precision": precision, "objective": {"name": variant},
            "train.images": STEPS * 64, "train.checkpoint_every_images": 64, "train.grad_clip": 0.5, "train.ema_decay": 0.9,
            "resources.accelerators_per_run": 2, "resources.micro_batch": 16, "resources.keep_checkpoints": STEPS})
            for index, (strategy, precision, variant) in enumerate(CASES)]
    return make


def test_resumed_bit_for_bit_and_averaged_right(cases, on_ranks):
    whole, parts = cases("whole"), cases("parts")
    on_ranks(2, *(run for _, run in whole))
    on_ranks(2, *(run for _, run in parts), stop_after=3)
    for (config, run), (_, resumed), case in zip(whole, parts, CASES, strict=True):
        assert loss_terms(resumed) == loss_terms(run) and len(loss_terms(run)) == STEPS, case
        for path in list_checkpoints(run)[-1].glob("*.safetensors"):
            assert path.read_bytes() == (list_checkpoints(resumed)[-1] / path.name).read_bytes(), (case, path.name)
        torch.testing.assert_close(load_file(list_checkpoints(run)[-1] / "ema.safetensors"), average_by_hand(config, run),
                                   rtol=0, atol=1e-6)


def loss_terms(run):
    return [{name: value for name, value in line.items() if name.startswith("loss/")} for line in read_lines(run.metrics)]


def average_by_hand(config, run):
    """In fp64, from the masters after each step; before the first they are the weights, in the precision of the forward."""
    dtype = forward_dtype(config)
    average = {name: p.detach().to(dtype).double() for name, p in build_model(config).named_parameters() if p.requires_grad}
    for checkpoint in list_checkpoints(run):
        for name, master in load_file(checkpoint / "masters.safetensors").items():
            average[name].lerp_(master.double(), 1 - config.train.ema_decay)
    return {name: value.float() for name, value in average.items()}
