"""Communication of a step: bytes against a hand count and against what DeepSpeed hands to gloo, seconds, and where scaling ends."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.cost.communication import Collective, Sharding, communication, ring_seconds, step_collectives
from ditscale.cost.hardware import Links, gpu_links, named_machine
from ditscale.cost.throughput import step_forecast, training_seconds
from ditscale.models.matrices import kind_of
from ditscale.objectives.from_config import build_model
from ditscale.objectives.variant import backbone_of
from ditscale.studies.plan.scaleout import scaling_curves
from ditscale.studies.spec.spec import expand, load_spec
from ditscale.training.zero.layout import Piece
from ditscale.training.zero.matrices import matrices_of

P = 1_000_000_000


def sent(ranks, *, precision="bf16", micro_steps=1, teacher=False, parameters=P, **sharding):
    collectives = step_collectives(parameters, Sharding(**sharding), precision=precision, micro_steps=micro_steps, blocks=28,
                                   teacher=teacher)
    return communication(collectives, ranks, Links()).bytes / parameters


def test_bytes_by_hand():
    """Bytes a parameter and step that one of 4 ranks sends: 3/4 of what a ring carries round."""
    assert sent(4, stage=0, precision="fp32") == 3 / 4 * 2 * 4                 # all-reduce of fp32 gradients
    assert sent(4, stage=1) == 3 / 4 * (2 * 2 + 2)                             # all-reduce in bf16, all-gather of the weights
    assert sent(4, stage=1, all_reduces=False) == 3 / 4 * (2 + 2)
    assert sent(4, stage=1, micro_steps=3) == sent(4, stage=1)                 # at the boundary
    assert sent(4, stage=2, micro_steps=3) == 3 / 4 * (3 * 2 * 2 + 2)          # at every micro step
    releasing = {"stage": 3, "reuse_distance": 0, "prefetch_bucket": 0}
    assert sent(4, **releasing) == 3 / 4 * (2 + 2 + 2)                         # two gathers, one reduce-scatter
    assert sent(4, **releasing, micro_steps=3) == 3 * sent(4, **releasing)
    assert sent(4, stage=3, prefetch_bucket=0) == 3 / 4 * (2 * 1.5 + 2)        # the later half stays for the backward
    assert sent(4, stage=3, prefetch_bucket=0, parameters=P // 2) == sent(4, stage=3) == 3 / 4 * (2 + 2)  # all of it does
    assert sent(4, stage=1, teacher=True) == sent(4, stage=1) + 3 / 4 * 2
    assert sent(1, stage=3) == 0


@pytest.mark.parametrize("optimizer", [{}, {"modulation": "muon", "last_layer": "muon"}, {"qkv": "whole"}], ids=["default", "all", "whole"])
@pytest.mark.parametrize("stage, ranks", [(0, 4), (1, 2), (1, 3), (2, 16), (3, 2), (3, 3), (3, 16), (1, 1)])
@pytest.mark.parametrize("model", [{"name": "DiT-3x64/8"}, {"name": "DiT-3x64/8", "mlp": "swiglu"}, {"name": "DiT-3x192/8", "block": "in_context"}],
                         ids=["gelu", "swiglu", "in_context"])
def test_what_muon_exchanges(values, stage, ranks, model, optimizer):
    """Against the places that the optimizer itself computes, of the model's parameters cut as ZeRO cuts them."""
    values["model"], values["data"] = model, {**values["data"], "resolution": 32, "channels": 4}
    values["train"]["optimizer"] = muon = {"name": "muon", **optimizer}
    config = resolve(values, "test")
    muon = config.train.optimizer
    shapes = {name: p.shape for name, p in build_model(config).named_parameters() if muon.stacked(kind_of(name))}
    pieces, start = [[] for _ in range(ranks)], 0
    total = sum(shape.numel() for shape in shapes.values())
    for name, shape in shapes.items():
        part, at = (-(-shape.numel() // ranks), 0) if stage == 3 else (-(-total // ranks) if stage else total, start)
        for first in sorted({0, *(cut - at for cut in range((at // part + 1) * part, at + shape.numel(), part))}):
            end = min(shape.numel(), ((at + first) // part + 1) * part - at)
            pieces[(at + first) // part].append(Piece(name, 0, 0, first, end - first))
        start += shape.numel()
    [found] = matrices_of(SimpleNamespace(masters=[None], shapes=shapes, shards=ranks, pieces=pieces), lambda name: muon.stacked(kind_of(name)))
    sent = sum(place.numel for one in found for rank, place in one.places.items() if rank != one.owner)
    assert muon.exchanged(config.objective.matrices(backbone_of(config)), stage, ranks) == 2 * sent
    adamw = resolve({**values, "train": {**values["train"], "optimizer": {"name": "adamw"}}}, "test").train.optimizer
    assert adamw.exchanged(config.objective.matrices(backbone_of(config)), stage, ranks) == 0


def test_a_forecast_has_muons_exchange(values):
    """Of 12 blocks of 12 W^2 numbers on 8 ranks: at stage 3 each sends 7/64 of them, there and back, in bf16; at stage 1 every other cut halves an fc1
    of 4 W^2; at stage 0 there is nothing more than AdamW's."""
    values["model"]["name"], values["data"] = "DiT-S/8", {**values["data"], "resolution": 32, "channels": 4}
    values["resources"] = {"accelerators_per_run": 8}

    def more(stage):
        sent = []
        for name in ("adamw", "muon"):
            values["train"]["optimizer"] = {"name": name, **({"qkv": "whole"} if name == "muon" else {})}
            sent.append(step_forecast(resolve(values, "test"), named_machine("H100:8"), Sharding(stage)).sent_bytes)
        return sent[1] - sent[0]

    assert more(3) == pytest.approx(2 * 2 * 7 / 64 * 12 * 12 * 384**2) and more(0) == 0
    assert more(1) == pytest.approx(2 * 2 * 4 * 2 * 384**2 / 8)


def test_seconds_by_hand():
    """An all-reduce of 1 GB in nodes of 8 H100: NVLink's 450 GB/s in a node, a node's 8 x 50 GB/s between nodes, 70 % of it."""
    links, whole = gpu_links("H100"), Collective(2, 1e9, 1)
    within = 2 * 7 / 8 * 1e9 / (0.7 * 450e9) + 8.4e-6 + 2 * 7 * 3.4e-6
    between = 2 * 31 / 32 * 1e9 / (0.7 * 400e9) + 8.4e-6 + 2 * (3 * 14e-6 + 28 * 3.4e-6)
    assert ring_seconds(whole, 8, links) == pytest.approx(within) and ring_seconds(whole, 32, links) == pytest.approx(between)
    slow = gpu_links("H100", network_gbps=100)
    assert ring_seconds(whole, 32, slow) > 3 * ring_seconds(whole, 32, links) and ring_seconds(whole, 8, slow) == pytest.approx(within)


def test_a_forecast_counts_what_nothing_hides(values):
    values["model"]["name"], values["data"] = "DiT-XL/2", {**values["data"], "resolution": 32, "channels": 4}
    values["train"] |= {"global_batch": 256, "images": 2560, "checkpoint_every_images": 2560}
    values["resources"] = {"accelerators_per_run": 64, "micro_batch": 2}
    config, machine = resolve(values, "test"), named_machine("H100:64")
    plain = step_forecast(config, machine, Sharding(1))
    assert plain.exposed_seconds == plain.communication_seconds > 0 and 0 < plain.efficiency < 1
    assert training_seconds(config, machine, 0) == pytest.approx(
        10 * (plain.compute_seconds + plain.overhead_seconds + plain.exposed_seconds))
    assert training_seconds(config, machine, 2560) == 0
    late = step_forecast(config, machine, Sharding(1, overlap=True, reduce_bucket=1e9))
    assert late.exposed_seconds == late.communication_seconds                  # one bucket is full when the backward ends
    small = step_forecast(config, machine, Sharding(1, overlap=True, reduce_bucket=1e7))
    assert small.communication_seconds - small.exposed_seconds == pytest.approx(0.7 * 2 / 3 / 2 * small.compute_seconds)
    values["resources"]["accelerators_per_run"], values["resources"]["micro_batch"] = 1, 2
    assert step_forecast(resolve(values, "test"), machine, Sharding(1)).exposed_seconds == 0


def test_where_scaling_ends(repository, monkeypatch):
    monkeypatch.chdir(repository)
    spec = load_spec("sweeps/imagenet256_models.yaml", ("model.name=[DiT-S/8,DiT-XL/2]",))
    small, large = scaling_curves(expand(spec, "x"), named_machine("H100:8"))
    assert [point.ranks for point in large.points] == [8, 16, 32, 64, 128, 256]  # 256 images do not divide over 512
    assert (small.runs, small.name) == (1, "DiT-S/8 baseline") and large.pays_to > small.pays_to == 8
    shares = [point.step.efficiency for point in large.points]
    assert shares == sorted(shares, reverse=True) and large.points[0].micro_batch == 32


def test_the_plan_shows_it(repository, monkeypatch):
    monkeypatch.chdir(repository)

    def plan(*options):
        done = CliRunner().invoke(main, ["plan", "sweeps/imagenet256_models.yaml", "model.name=DiT-XL/2", *options])
        return done.exit_code, done.output

    code, said = plan("--on", "H100:512", "--scaling", "resources.accelerators_per_run=64", "--network", "100")
    assert code == 0 and "A step of runs on several ranks" in said and "pays to" in said and "100 Gb/s per GPU between nodes" in said
    code, said = plan("--on", "H100", "resources.accelerators_per_run=1")
    assert code == 0 and "several ranks" not in said and "pays to" not in said
    code, said = plan("--on", "H100:8", "resources.deepspeed=none.json")
    assert code == 2 and "resources.deepspeed: none.json does not exist" in said
    assert plan("--network", "0")[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("optimizer, model, at_stage_3", [("adamw", "DiT-tiny/8", 0.15), ("muon", "DiT-3x384/8", 0.01)])
def test_what_two_ranks_really_send(repository, optimizer, model, at_stage_3):
    """Real steps at stages 1 to 3 on two gloo ranks; the model is exact but for padding, and for small weights that stay whole."""
    done = subprocess.run([sys.executable, str(repository / "benchmarks/communication.py"), "--ranks", "2", "--steps", "1", "--optimizer", optimizer,
                           "--strategies", "zero1", "zero2", "zero3", "--micro-steps", "2", "--model", model],
                          capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = {case["strategy"]: case for case in json.loads(done.stdout.splitlines()[-1])["cases"]}
    for name, tolerance in (("zero1", 1e-3), ("zero2", 1e-3), ("zero3", at_stage_3)):  # DiT-tiny: 8 % of its weights are small ones
        assert cases[name]["model_bytes"] == pytest.approx(cases[name]["bytes"], rel=tolerance)
