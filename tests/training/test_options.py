"""What saves memory or time leaves the numbers as they are; a start that must end in time ends in time; ranks must agree."""

import time

import pytest
import torch

from ditscale.errors import UserError
from ditscale.objectives.from_config import build_model
from ditscale.rundir import read_lines
from ditscale.training.agreement import facts
from ditscale.training.checkpoint.checkpoint import list_checkpoints
from ditscale.training.loop import prepare_blocks, train
from ditscale.training.preemption import StopRequest
from ditscale.training.schedule import learning_rate

pytestmark = pytest.mark.usefixtures("in_repository")


def losses(run):
    return [{name: value for name, value in line.items() if name.startswith("loss/")} for line in read_lines(run.metrics)]


@pytest.mark.parametrize("objective", ["baseline", "mdt", "discriminative", "sprint"])
@pytest.mark.parametrize("strategy", ["zero1", "zero3"])
def test_recomputed_activations_change_nothing(make_run, world, objective, strategy):
    changes = {"objective": {"name": objective}, "train.images": 192, "resources.deepspeed": f"ds_configs/{strategy}.json"}
    runs = []
    for recompute in (False, True):
        config, run = make_run(f"recompute-{recompute}", {**changes, "resources.checkpoint_activations": recompute})
        train(config, run, world)
        runs.append(run)
    kept, recomputed = runs
    assert losses(recomputed) == losses(kept)
    for path in list_checkpoints(kept)[-1].glob("*.safetensors"):
        assert path.read_bytes() == (list_checkpoints(recomputed)[-1] / path.name).read_bytes()


def test_recomputing_keeps_less(make_run):
    """Bytes that autograd keeps for the backward pass."""
    def kept_bytes(**resources):
        config, _ = make_run(changes={"model.name": "DiT-nano/2", **{f"resources.{name}": value for name, value in resources.items()}})
        model, held = prepare_blocks(build_model(config), config.resources), {}

        def pack(tensor):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(8, 1, 8, 8), torch.zeros(8), torch.zeros(8, dtype=torch.long))
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return sum(size for place, size in held.items() if place not in parameters)
    assert kept_bytes(checkpoint_activations=True) < 0.25 * kept_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("variant, precision, recomputed", [("baseline", "fp32", False), ("masked", "fp32", False), ("mdt", "fp32", True),
                                                            ("tread", "fp32", False), ("sprint", "fp32", True),
                                                            ("discriminative", "fp32", False), ("baseline", "bf16", True)])
def test_compiled_blocks_give_near_losses(make_run, world, variant, precision, recomputed):
    """Each variant, with recomputing too; bf16 rounds elsewhere when operations are fused."""
    runs = []
    for compiled in (False, True):
        config, run = make_run(f"compiled-{compiled}", {
            "objective": {"name": variant}, "train.precision": precision, "train.images": 6 * 64, "resources.compile": compiled,
            "resources.checkpoint_activations": recomputed})
        train(config, run, world)
        runs.append([line[name] for line in read_lines(run.metrics) for name in sorted(line) if name.startswith("loss/")])
    assert runs[1] == pytest.approx(runs[0], rel=1e-4 if precision == "fp32" else 0.02) and len(runs[0]) >= 6


def test_cosine_schedule(make_run):
    changes = {"train.lr_schedule": "cosine", "train.lr_end": 1e-4, "train.warmup_images": 128, "train.images": 1152}
    config, _ = make_run(changes=changes)
    found = [learning_rate(config, images) for images in (0, 64, 128, 640, 1152 - 64)]
    assert found[:4] == pytest.approx([5e-4, 1e-3, 1e-3, 5.5e-4])
    assert 1e-4 < found[4] < 1.1e-4


def test_wsd_schedule(make_run):
    """Warm-up, constant, then down to lr_end over the last fifth: linearly, or steep at first."""
    changes = {"train.lr_schedule": "wsd", "train.lr_end": 1e-4, "train.warmup_images": 128, "train.images": 1280}
    config, _ = make_run(changes=changes)
    images = (0, 64, 512, 1024, 1024 + 64, 1280 - 64)
    assert [learning_rate(config, seen) for seen in images] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 7.75e-4, 3.25e-4])
    config, _ = make_run(changes={**changes, "train.lr_decay": "one_minus_sqrt"})
    assert [learning_rate(config, seen) for seen in images] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 5.5e-4, 1e-4 + 9e-4 * (1 - 0.75**0.5)])


@pytest.mark.parametrize("changes, words", [
    ({"train.lr_decay": "one_minus_sqrt"}, "are for train.lr_schedule wsd; it is constant"),
    ({"train.lr_schedule": "wsd", "train.lr_decay_share": 0.9, "train.images": 1280, "train.warmup_images": 256}, "reaches into the decay of wsd"),
    ({"train.weight_decay_form": "independent"}, "has no effect with train.weight_decay 0"),
    ({"train.weight_decay_form": "independent", "train.weight_decay": 0.1, "train.optimizer": {"name": "sgd"}}, "is for adamw"),
])
def test_schedules_that_do_not_fit_are_refused(make_run, changes, words):
    with pytest.raises(UserError, match=words):
        make_run(changes=changes)


def test_independent_decay_is_that_of_the_schedule_at_any_rate(make_run):
    """Without a gradient a step only shrinks a weight, under muP too."""
    for lr in (1e-3, 1e-2):
        config, _ = make_run(changes={"model": {"name": "DiT-2x64/4", "parametrization": "mup", "base_width": 128}, "train.lr": lr,
                                      "train.weight_decay": 0.02, "train.weight_decay_form": "independent"})
        model = build_model(config)
        trained = dict(model.named_parameters())
        optimizer = config.train.optimizer.build(config.train.optimizer.groups(trained, model.scales, config.train), config.train)
        before = {name: p.detach().clone() for name, p in trained.items()}
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * lr * group["lr_multiplier"]                    # half way down a schedule
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        optimizer.step()
        for name, p in trained.items():
            torch.testing.assert_close(p.detach(), 0.99 * before[name])


def test_the_time_limit_of_a_start():
    assert not StopRequest()
    assert not StopRequest(minutes=10, margin_minutes=3)
    limited = StopRequest(minutes=10, margin_minutes=9.9999)
    time.sleep(0.1)
    assert limited and limited.reason == "the time limit is near"
    job = (float("-inf"), time.time() + 100)
    assert StopRequest(minutes=60, margin_minutes=3, job=job) and not StopRequest(minutes=60, margin_minutes=1, job=job)


def test_a_run_stops_in_time_and_is_preempted(make_run):
    from ditscale.studies.launch.worker import work

    _, run = make_run(changes={"train.images": 64 * 1000, "resources.time_limit_minutes": 3.0001,
                               "resources.time_margin_minutes": 3.0, "evaluation": None})
    assert work(run) == 75
    assert run.status()["state"] == "preempted" and run.status()["reason"] == "the time limit is near"
    assert run.status()["images_seen"] > 0 and list_checkpoints(run)


def test_only_the_checkpoints_that_are_due_are_scored(make_run):
    from ditscale.studies.launch.worker import work

    _, run = make_run(changes={"train.checkpoint_every_images": 64, "evaluation.every_images": 256})
    assert work(run) == 0
    assert [line["images_seen"] for line in read_lines(run.evals)] == [256, 512, 640]
    assert len(list_checkpoints(run)) == 10


def test_facts_tell_data_and_config_apart(make_run, tmp_path):
    config, _ = make_run("one")
    other, _ = make_run("two", {"train.lr": 2e-3})
    moved, _ = make_run("three", {"data.path": str(tmp_path / "none.beton")})
    differing = {name for name in facts(config) if facts(config)[name] != facts(other)[name]}
    assert differing == {"config"}
    assert facts(moved)["data"] == "no file" and " bytes, manifest " in facts(config)["data"]


def test_ranks_that_disagree_stop_at_the_start(make_run, on_ranks):
    """Rank 1 sees another learning rate."""
    _, run = make_run(changes={"resources.accelerators_per_run": 2})
    with pytest.raises(AssertionError) as error:
        on_ranks(2, run, disagree=True)
    said = str(error.value)
    assert "rank 0 (on" in said and "and rank 1 (on" in said and "do not agree: config: " in said
    assert not run.metrics.exists()


def test_user_errors_name_the_averages(make_run):
    for key, value, words in [("train.ema_lengths", [0.3], "train.ema_lengths has 0.3; give numbers above 0 and below 0.28"),
                              ("train.ema_decays", [1.0], "train.ema_decays has 1.0; give numbers above 0 and below 1"),
                              ("train.ema_lengths", [0.1, 0.1], "has a number twice"),
                              ("evaluation.every_images", 500, "500 is not a multiple of train.checkpoint_every_images 320"),
                              ("resources.time_limit_minutes", 2.0, "time_margin_minutes 3.0 leaves no time of")]:
        with pytest.raises(UserError, match=words):
            make_run(changes={key: value})
