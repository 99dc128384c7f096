"""Scale in miniature: 16 gloo ranks on this machine, then 5, then 1."""


import pytest
import torch
from safetensors.torch import load_file

from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_repository")]

RANKS, BATCH, STEPS = 16, 80, 9                                                # a batch that 16, 5 and 1 divide
CASES = [("zero1", "discriminative"), ("zero2", "baseline"), ("zero3", "masked"), ("zero3", "discriminative")]


@pytest.fixture
def cases(make_run):
    """Runs of every case, to be trained on so many ranks; called again it changes the ranks of runs that there are."""
    def make(name, ranks):
        return [make_run(f"{name}-{index}", {
            "resources.deepspeed": f"ds_configs/{strategy}.json", "objective": {"name": variant}, "train.precision": "fp32",
            "train.images": STEPS * BATCH, "train.global_batch": BATCH, "train.checkpoint_every_images": 3 * BATCH,
            "train.grad_clip": 0.5, "train.ema_decay": 0.9, "train.ema_lengths": [0.05, 0.1], "evaluation": None,
            "resources.log_every_images": BATCH, "resources.accelerators_per_run": ranks, "resources.micro_batch": BATCH // ranks})
            for index, (strategy, variant) in enumerate(CASES)]
    return make


def test_sixteen_then_five_then_one_equal_one(cases, on_ranks, world):
    """fp32, up to the order of sums over ranks; what is kept is cut in 16."""
    on_ranks(RANKS, *(run for _, run in cases("run", RANKS)), stay_stopped=3)
    shares = {run.run_id: [held(run, rank) for rank in range(RANKS)] for _, run in cases("run", RANKS)}
    on_ranks(5, *(run for _, run in cases("run", 5)), stay_stopped=3)
    for (config, run), (alone, whole), case in zip(cases("run", 1), cases("whole", 1), CASES, strict=True):
        assert [line["images_seen"] for line in read_lines(run.metrics)] == [step * BATCH for step in range(1, 7)], case
        assert train(config, run, world) and train(alone, whole, world)
        for line, expected in zip(read_lines(run.metrics), read_lines(whole.metrics), strict=True):
            terms = [name for name in expected if name.startswith(("loss/", "grad_norm", "images_seen"))]
            assert {name: line[name] for name in terms} == pytest.approx({name: expected[name] for name in terms}, rel=1e-5, abs=2e-5), case
        found, expected = list_checkpoints(run)[-1], list_checkpoints(whole)[-1]
        files = {path.name for path in expected.glob("*.safetensors")}
        assert {"masters.safetensors", "ema.safetensors", "ema-power-0.05.safetensors", "ema-power-0.1.safetensors"} <= files
        assert ("teacher.safetensors" in files) == (case[1] == "discriminative")
        for name in files - {"optimizer.safetensors"}:
            torch.testing.assert_close(load_file(found / name), load_file(expected / name), rtol=0, atol=2e-5, msg=lambda m: f"{case}: {name}: {m}")
        share = sum(value.numel() for value in load_file(found / "masters.safetensors").values()) / RANKS
        parameters = len(load_file(found / "masters.safetensors"))
        for averaged, masters in shares[run.run_id]:                                  # stage 3 pads each parameter, 1 and 2 a group
            assert share <= averaged == masters < 1.02 * share + (parameters if case[0] == "zero3" else 64), case


def held(run, rank):
    """The fp32 numbers that a rank held for an average, and as its masters."""
    return [int((run.path / f"{what}-{rank}.txt").read_text()) for what in ("averaged", "masters")]
