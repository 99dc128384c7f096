"""Every ZeRO stage, with and without offload, on one rank and on more, against one plain PyTorch loop."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ditscale import randomness
from ditscale.data.loader import StreamLoader
from ditscale.errors import UserError
from ditscale.objectives.from_config import build_model, make_objective
from ditscale.objectives.objective import CleanBatch
from ditscale.rundir import read_lines
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import train
from ditscale.training.zero.strategy import deepspeed_config

pytestmark = pytest.mark.usefixtures("in_repository")

STEPS = {"train.images": 20 * 64, "train.checkpoint_every_images": 10 * 64}
FP32 = {**STEPS, "train.precision": "fp32", "train.grad_clip": 0.5}              # the norm is above and below 0.5 in these steps
STRATEGIES = ["zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]


def strategy(name):
    return {"resources.deepspeed": f"ds_configs/{name}.json"}


def losses(run):
    return [line["loss/generative"] for line in read_lines(run.metrics)]


def norms(run):
    return [line["grad_norm"] for line in read_lines(run.metrics)]


def saved(run, name):
    return load_file(list_checkpoints(run)[-1] / f"{name}.safetensors")


def stop_after(steps):
    """A stop request that comes up at the end of that many steps."""
    calls = iter(range(1, 10**6))
    return lambda: next(calls) >= steps


def near(first, second, tolerance):
    assert first.keys() == second.keys()
    return all(torch.allclose(first[name], second[name], rtol=0, atol=tolerance) for name in first)


@pytest.fixture(scope="module")
def plain():
    """Losses, gradient norms, last weights and EMA of the config, by a few lines of PyTorch; computed once for a clipping."""
    known = {}

    def loop(config):
        if config.train.grad_clip not in known:
            known[config.train.grad_clip] = _plain_loop(config)
        return known[config.train.grad_clip]
    return loop


def _plain_loop(config):
    objective, model = make_objective(config), build_model(config)
    ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr, weight_decay=0.0, fused=True)
    found = {"losses": [], "norms": []}
    for images, labels, positions in StreamLoader(config.data.path, seed=config.seed, global_batch=64, micro_batch=64,
                                                 end_images=config.train.images, backend="mmap"):
        draws = randomness.draw(config.seed, positions, objective.streams)
        loss = objective(model, CleanBatch(images.float() / 127.5 - 1, labels), draws).losses["generative"]
        optimizer.zero_grad()
        loss.backward()
        found["norms"].append(torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.grad_clip).item())
        optimizer.step()
        found["losses"].append(loss.item())
        with torch.no_grad():
            for name, p in model.named_parameters():
                ema[name].mul_(config.train.ema_decay).add_(p, alpha=1 - config.train.ema_decay)
    return {**found, "masters": dict(model.named_parameters()), "ema": ema}


@pytest.mark.parametrize("name", STRATEGIES)
def test_one_rank_equals_a_plain_loop_in_fp32(make_run, world, plain, name):
    """20 steps with clipping: losses, gradient norms, weights, EMA."""
    config, run = make_run(changes={**FP32, **strategy(name)})
    assert train(config, run, world)
    expected = plain(config)
    assert min(expected["norms"]) < config.train.grad_clip < max(expected["norms"])
    assert losses(run) == pytest.approx(expected["losses"], abs=1e-6)
    assert norms(run) == pytest.approx(expected["norms"], abs=1e-5)
    assert near(saved(run, "masters"), expected["masters"], 5e-6) and near(saved(run, "ema"), expected["ema"], 5e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_without_clipping_it_is_the_plain_loop_bit_for_bit(make_run, world, plain, name):
    config, run = make_run(changes={**FP32, **strategy(name), "train.grad_clip": 1e9})
    assert train(config, run, world)
    expected = plain(config)
    assert losses(run) == expected["losses"] and near(saved(run, "masters"), expected["masters"], 0)


def plain_bf16_loop(config, *, micro_batches):
    """bf16 weights and gradients, fp32 masters: losses, and the masters in the end. Micro gradients are added in bf16.

    The fused AdamW, as in ``train()``: torch's other one differs in a master's last bit, which now and then rounds a bf16 weight the
    other way (2^-8 of it), and 20 steps later losses differ by 5e-5 and masters by 2e-3.
    """
    objective, model = make_objective(config), build_model(config)
    for p in model.parameters():
        p.data = p.data.bfloat16()
    masters = {name: p.detach().float().requires_grad_() for name, p in model.named_parameters()}
    optimizer, found = torch.optim.AdamW(masters.values(), lr=config.train.lr, weight_decay=0.0, fused=True), []
    batches = StreamLoader(config.data.path, seed=config.seed, global_batch=64, micro_batch=64 // micro_batches,
                          end_images=config.train.images, backend="mmap")
    for step, (images, labels, positions) in enumerate(batches, start=1):
        draws = randomness.draw(config.seed, positions, objective.streams)
        loss = objective(model, CleanBatch(images.float() / 127.5 - 1, labels), draws).losses["generative"]
        (loss / micro_batches).backward()
        found.append(loss.item())
        if step % micro_batches == 0:
            for name, p in model.named_parameters():
                masters[name].grad = p.grad.float()
                p.grad = None
            optimizer.step()
            for name, p in model.named_parameters():
                p.data.copy_(masters[name].data)
    means = [sum(found[first:first + micro_batches]) / micro_batches for first in range(0, len(found), micro_batches)]
    return means, masters


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_bf16_equals_a_plain_loop_with_fp32_masters(make_run, world, micro_batches):
    """Masters bit for bit over 20 steps, with accumulation too: micro gradients are added in their order. A logged loss is the mean
    of the micro batches' in fp32, here in float64: 1e-6."""
    config, run = make_run(changes={**STEPS, **strategy("zero1"), "resources.micro_batch": 64 // micro_batches})
    train(config, run, world)
    history, masters = plain_bf16_loop(config, micro_batches=micro_batches)
    assert losses(run) == pytest.approx(history, abs=1e-6)
    assert near(saved(run, "masters"), masters, 0)


def test_bf16_on_two_ranks_is_near_one(make_run, world, on_ranks):
    """The ranks' gradients are rounded to bf16 before they are added: losses within 1 %, one step's within 1e-6."""
    config, one = make_run("one", STEPS)
    train(config, one, world)
    runs = {name: make_run(name, {**STEPS, **strategy(name), "resources.accelerators_per_run": 2})[1] for name in ("zero1", "zero3")}
    on_ranks(2, *runs.values())
    for run in runs.values():
        assert losses(run)[0] == pytest.approx(losses(one)[0], abs=1e-6)
        assert losses(run) == pytest.approx(losses(one), rel=0.01)


@pytest.fixture
def same_linear(tmp_path):
    """Stage 3 with torch's own linear function: DeepSpeed's, which keeps less, adds the bias in another order."""
    path = tmp_path / "zero3_same_linear.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, "memory_efficient_linear": False}}))
    return {"resources.deepspeed": str(path)}


def test_bf16_is_the_same_at_every_stage(make_run, world, same_linear):
    """Bit for bit the losses, masters and EMA of stage 1; as shipped, with its own linear function, stage 3 is near."""
    runs, settings = {}, {**{name: strategy(name) for name in STRATEGIES[1:]}, "same linear": same_linear}
    for name, chosen in settings.items():
        config, runs[name] = make_run(name, {**STEPS, **chosen})
        train(config, runs[name], world)
    for name in ("zero2", "zero2_offload", "same linear"):
        assert losses(runs[name]) == losses(runs["zero1"])
        for file in ("masters", "ema"):
            assert near(saved(runs[name], file), saved(runs["zero1"], file), 0), (name, file)
    assert losses(runs["zero3_offload"]) == losses(runs["zero3"])
    assert losses(runs["zero3"]) == pytest.approx(losses(runs["zero1"]), rel=1e-3)


@pytest.mark.parametrize("name, precision", [("zero0", "fp32"), ("zero3", "fp32"), ("zero3", "bf16"), ("zero2_offload", "bf16"),
                                             ("zero3_offload", "bf16")])
def test_stopped_and_resumed_is_bit_for_bit_the_same(make_run, world, name, precision):
    changes = {"train.precision": precision, **strategy(name)}
    config, whole = make_run("whole", changes)
    train(config, whole, world)
    config, parts = make_run("parts", changes)
    assert not train(config, parts, world, stop=stop_after(3))
    assert train(config, parts, world)
    assert losses(parts) == losses(whole)
    for path in list_checkpoints(whole)[-1].glob("*.safetensors"):
        assert path.read_bytes() == (list_checkpoints(parts)[-1] / path.name).read_bytes(), path.name


@pytest.mark.parametrize("variant", ["masked", "mdt", "discriminative", "tread", "sprint"])
def test_every_variant_trains_alike_under_every_strategy(make_run, world, same_linear, variant):
    """bf16: stages 2, 3 and offload against stage 1, bit for bit; fp32: stage 0 against stage 1, whose AdamW has other vectors."""
    def trained(name, **changes):
        config, run = make_run(name, {"objective": {"name": variant}, "train.images": 256, **changes})
        train(config, run, world)
        terms = [{name: value for name, value in line.items() if name.startswith(("loss/", "watch/"))} for line in read_lines(run.metrics)]
        assert len(terms) == 4
        return terms, {path.stem: load_file(path) for path in list_checkpoints(run)[-1].glob("*.safetensors")}
    one = trained("one", **strategy("zero1"))
    for name, chosen in {"zero2": strategy("zero2"), "offload": strategy("zero2_offload"), "three": same_linear}.items():
        torch.testing.assert_close(trained(name, **chosen), one, rtol=0, atol=0, msg=lambda found: f"{name}: {found}")
    exact = {"train.precision": "fp32"}
    torch.testing.assert_close(trained("zero", **strategy("zero0"), **exact), trained("fp32", **strategy("zero1"), **exact),
                               rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_more_ranks_equal_one(make_run, on_ranks, plain, ranks):
    """fp32, every stage; each rank holds its share of the masters, and the whole is the plain loop's."""
    runs = {}
    for name in ("zero0", "zero1", "zero2", "zero3"):
        config, runs[name] = make_run(f"{name}-{ranks}", {**FP32, **strategy(name), "resources.accelerators_per_run": ranks,
                                                          "resources.micro_batch": 64 // ranks // 2})
    on_ranks(ranks, *runs.values())
    expected = plain(config)
    for run in runs.values():
        assert losses(run) == pytest.approx(expected["losses"], abs=2e-6)
        assert norms(run) == pytest.approx(expected["norms"], abs=1e-5)
        assert near(saved(run, "masters"), expected["masters"], 5e-6) and near(saved(run, "ema"), expected["ema"], 5e-6)
    whole = sum(value.numel() for value in expected["ema"].values())
    for name, run in runs.items():
        share = whole if name == "zero0" else whole / ranks                       # and padding
        for rank in range(ranks):
            assert share <= int((run.path / f"averaged-{rank}.txt").read_text()) < 1.02 * share + 64


def test_a_run_continues_on_other_ranks_and_another_stage(make_run, world, on_ranks, plain):
    """2 ranks at stage 3, then 1 at stage 1, then 4 at stage 2; same data, noise and losses as one plain loop."""
    changes = {**FP32, "train.checkpoint_every_images": 6 * 64}
    config, run = make_run("run", {**changes, **strategy("zero3"), "train.images": 6 * 64, "resources.accelerators_per_run": 2})
    on_ranks(2, run)
    config, _ = make_run("run", {**changes, **strategy("zero1"), "train.images": 12 * 64})
    assert train(config, run, world)
    make_run("run", {**changes, **strategy("zero2"), "resources.accelerators_per_run": 4})
    on_ranks(4, run)
    config, _ = make_run("other", FP32)
    expected = plain(config)
    assert losses(run) == pytest.approx(expected["losses"], abs=2e-6)
    assert near(saved(run, "masters"), expected["masters"], 5e-6) and near(saved(run, "ema"), expected["ema"], 5e-6)


@pytest.mark.parametrize("settings, words", [
    ({}, "ZeRO stage 0 with train.precision bf16"),
    ({"zero_optimization": {"stage": 4}}, "ZeRO stage 4; stages are 0, 1, 2 and 3"),
    ({"zero_optimization": {"stage": 1}, "train_batch_size": 32}, "train_batch_size = 32 but the run config makes it 64"),
    ({"zero_optimization": {"stage": 1}, "bf16": {"enabled": False}}, "bf16.enabled = false but"),
    ({"zero_optimization": {"stage": 1}, "fp16": {"enabled": True}}, "has 'fp16', but train.precision is bf16 or fp32"),
    ({"zero_optimization": {"stage": 1}, "optimizer": {"type": "Adam"}}, "has 'optimizer', but the optimizer is AdamW with train.lr"),
    *(({"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": word}}, "train.grad_sums decides, at stage 2 or 3")
      for word in ("fp32", "float32", "torch.float32")),
    ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, 'offload_param.device = "nvme"; give "none" or "cpu"'),
    ({"zero_optimization": {"stage": 1}, "managed_gradient_accumulation": False}, "every micro batch would be a separate step"),
    ([1], "expected a JSON object"),
])
def test_strategies_that_do_not_fit_are_refused(make_run, tmp_path, settings, words):
    (tmp_path / "strategy.json").write_text(json.dumps(settings))
    config, _ = make_run(changes={"resources.deepspeed": str(tmp_path / "strategy.json")})
    with pytest.raises(UserError) as error:
        deepspeed_config(config, 1)
    assert words in str(error.value)


def test_harmless_keys_of_a_users_own_strategy_are_kept(make_run, tmp_path):
    mine = {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}, "bf16": {"enabled": True}, "fp16": {"enabled": False},
            "train_batch_size": "auto", "gradient_clipping": 0.0, "wall_clock_breakdown": True}
    (tmp_path / "strategy.json").write_text(json.dumps(mine))
    config, _ = make_run(changes={"resources.deepspeed": str(tmp_path / "strategy.json")})
    made = deepspeed_config(config, 1)
    assert made["zero_optimization"]["reduce_bucket_size"] == 1000 and made["wall_clock_breakdown"] is True
    assert made["train_batch_size"] == 64 and made["bf16"]["enabled"] is True
