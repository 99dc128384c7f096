"""The critical batch size measured in a run: known answers, gradients by hand, equal on any ranks and stage, and without effect on training."""

import pytest
import torch

from ditscale import randomness
from ditscale.data.loader import StreamLoader
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.rundir import read_lines
from ditscale.training import loop, noise_scale
from ditscale.training.noise_scale import EVERY, NoiseScale, estimates

pytestmark = pytest.mark.usefixtures("in_repository")

FP32 = {"train.precision": "fp32", "train.images": 12 * 64, "evaluation": None}


def logged(run):
    return [{name: value for name, value in line.items() if name.startswith("batch/")} for line in read_lines(run.metrics)]


@pytest.mark.parametrize("preconditioned", [False, True])
def test_made_gradients_with_a_known_answer(preconditioned):
    """4000 steps of 8 micro batches of 4: gradients of mean m and independent noise with a deviation of their own for each number."""
    generator = torch.Generator().manual_seed(0)
    mean, deviation = (torch.randn(300, generator=generator, dtype=torch.float64) for _ in range(2))
    mean, weight = 0.3 * mean, 1 / deviation.square() if preconditioned else torch.ones(300, dtype=torch.float64)
    sums = torch.zeros(2, dtype=torch.float64)
    for _ in range(4000):
        gradients = mean + deviation * torch.randn(8, 4, 300, generator=generator, dtype=torch.float64)
        micro = gradients.mean(1)
        of_micro, of_batch = (weight * micro.square()).sum(1).mean(), (weight * micro.mean(0).square()).sum()
        sums += torch.stack(estimates(of_micro, of_batch, 4, 32))
    known = torch.stack([(weight * mean.square()).sum(), (weight * deviation.square()).sum()])
    assert torch.allclose(sums / 4000, known, rtol=0.02)
    assert (sums[1] / sums[0] / (known[1] / known[0])).item() == pytest.approx(1, abs=0.05)


def by_hand(config, steps):
    """For each measured step in fp64, from the gradient of each micro batch alone: [|G|^2, tr S] plain, and as Adam scales them."""
    objective, model, found = make_objective(config), build_model(config).double(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, weight_decay=0.0)
    batches = iter(StreamLoader(config.data.path, seed=config.seed, global_batch=64, micro_batch=16, end_images=config.train.images, backend="mmap"))
    for step in range(steps):
        micro = []
        for _ in range(4):
            images, labels, positions = next(batches)
            draws = {name: value.double() for name, value in randomness.draw(config.seed, positions, objective.streams).items()}
            optimizer.zero_grad(set_to_none=False)
            objective(model, CleanBatch(images.double() / 127.5 - 1, labels, step * 64), draws).loss.backward()
            micro.append([p.grad.flatten().clone() for p in model.parameters()])
        whole = [torch.stack(parts).mean(0) for parts in zip(*micro)]
        if step % EVERY == 0:
            v = [optimizer.state[p]["exp_avg_sq"].flatten() if step else torch.zeros(p.numel()) for p in model.parameters()]
            kinds = []
            for weights in ([torch.ones_like(one) for one in v], [torch.where(one > 0, (one.sqrt() + 1e-8) ** -2, 0) for one in v]):
                norm = lambda parts, weights=weights: sum((w * part.square()).sum() for w, part in zip(weights, parts))
                kinds.append(estimates(sum(map(norm, micro)) / 4, norm(whole), 16, 64))
            found.append([float(value) for kind in kinds for value in kind])
        for p, gradient in zip(model.parameters(), whole):
            p.grad.copy_(gradient.view(p.shape))
        optimizer.step()
    return found


def test_what_is_logged_is_what_micro_batches_say(make_run, world, monkeypatch):
    """With every number of the gradient, the first two measured steps; the averages by hand."""
    monkeypatch.setattr(noise_scale, "MOST", 10**9)
    config, run = make_run(changes={**FP32, "resources.micro_batch": 16})
    assert loop.train(config, run, world)
    lines, (first, second) = logged(run), by_hand(config, 10)
    keys = ("batch/gradient", "batch/noise")
    for line in lines[:8]:                                                     # Adam has no v before the first step
        assert line == pytest.approx({**dict(zip(keys, first)), **({"batch/critical": first[1] / first[0]} if first[0] > 0 else {})}, rel=1e-3)
    recent = min(1, 4 * 8 / 9)                                                 # 8 of 9 steps since the last one
    for key, before, now in zip(keys, first, second):
        assert lines[8][key] == lines[11][key] == pytest.approx(before + recent * (now - before), rel=1e-3)
    for key, now in zip(keys, second[2:]):
        assert lines[8][f"{key}_adam"] == pytest.approx(now, rel=5e-3)
    assert lines[8]["batch/critical_adam"] == pytest.approx(second[3] / second[2], rel=1e-2)


def test_samples_of_a_gradient_stand_for_all_of_it(make_run, world, monkeypatch):
    found = []
    for most in (10**9, 256):
        monkeypatch.setattr(noise_scale, "MOST", most)
        config, run = make_run(f"most-{most}", {**FP32, "resources.micro_batch": 16, "model.name": "DiT-femto/4", "train.images": 640})
        loop.train(config, run, world)
        found.append(logged(run)[-1])
    assert found[0] != found[1] and found[1]["batch/noise"] == pytest.approx(found[0]["batch/noise"], rel=0.1)
    assert found[1]["batch/noise_adam"] == pytest.approx(found[0]["batch/noise_adam"], rel=0.1)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_equal_on_any_ranks_and_stage(make_run, world, on_ranks, ranks):
    changes = {**FP32, "resources.micro_batch": 16, "train.images": 640}
    config, one = make_run("one", changes)
    loop.train(config, one, world)
    runs = [make_run(f"zero{stage}", {**changes, "resources.deepspeed": f"ds_configs/zero{stage}.json", "resources.accelerators_per_run": ranks})[1]
            for stage in range(4)]
    on_ranks(ranks, *runs)
    assert len(logged(one)[-1]) >= 4
    for run in runs:
        for line, expected in zip(logged(run), logged(one), strict=True):
            assert line == pytest.approx(expected, rel=1e-2, abs=1e-6), run.path.name


def test_bf16_and_recomputing_see_the_same(make_run, world):
    found = []
    for index, more in enumerate(({"train.precision": "bf16"}, {"train.precision": "bf16", "resources.checkpoint_activations": True}, {})):
        config, run = make_run(f"run-{index}", {**FP32, "resources.micro_batch": 16, "train.images": 64, **more})
        loop.train(config, run, world)
        found.append(logged(run)[0])
    assert found[0] == found[1] and found[0]["batch/noise"] == pytest.approx(found[2]["batch/noise"], rel=0.02)


@pytest.mark.parametrize("micro_batch", [16, 64])
def test_training_is_the_same_with_and_without_it(make_run, world, monkeypatch, micro_batch):
    """And one rank with one micro batch logs nothing."""
    lines = []
    for index in range(2):
        config, run = make_run(f"run-{index}", {**FP32, "resources.micro_batch": micro_batch, "train.images": 640})
        loop.train(config, run, world)
        lines.append([{name: value for name, value in line.items() if name.startswith(("loss/", "grad_norm"))} for line in read_lines(run.metrics)])
        assert any(logged(run)) == (index == 0 and micro_batch == 16)
        monkeypatch.setattr(NoiseScale, "start", lambda self, steps: None)
    assert lines[0] == lines[1]


def test_a_resumed_run_goes_on_from_its_averages(make_run, world):
    changes = {**FP32, "resources.micro_batch": 16, "train.images": 20 * 64}
    config, whole = make_run("whole", changes)
    loop.train(config, whole, world)
    config, parts = make_run("parts", changes)
    calls = iter(range(1, 10**6))
    assert not loop.train(config, parts, world, stop=lambda: next(calls) >= 12)
    assert loop.train(config, parts, world)
    assert logged(parts) == logged(whole) and len({line.get("batch/noise") for line in logged(whole)}) == 3


@pytest.mark.parametrize("optimizer", [{"name": "sgd"}, {"name": "muon"}])
def test_without_second_moments_there_is_only_the_plain_one(make_run, world, optimizer):
    config, run = make_run(changes={**FP32, "resources.micro_batch": 32, "train.images": 64, "train.optimizer": optimizer})
    loop.train(config, run, world)
    assert {"batch/gradient", "batch/noise"} <= logged(run)[0].keys() <= {"batch/gradient", "batch/noise", "batch/critical"}
