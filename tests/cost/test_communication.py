"""Communication of a step: bytes against a hand count and against what DeepSpeed hands to gloo, seconds, and where scaling ends."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.config import resolve
from ditscale.cost.communication import Collective, Sharding, communication, ring_seconds, step_collectives
from ditscale.cost.hardware import Links, gpu_links, named_machine
from ditscale.cost.throughput import step_forecast, training_seconds
from ditscale.studies.plan.scaleout import scaling_curves
from ditscale.studies.spec.spec import expand, load_spec

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
def test_what_two_ranks_really_send(repository):
    """Real steps at stages 1 to 3 on two gloo ranks; the model is exact but for padding, and for small weights that stay whole."""
    done = subprocess.run([sys.executable, str(repository / "benchmarks/communication.py"), "--ranks", "2", "--steps", "1",
                           "--strategies", "zero1", "zero2", "zero3", "--micro-steps", "2", "--model", "DiT-tiny/8"],
                          capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = {case["strategy"]: case for case in json.loads(done.stdout.splitlines()[-1])["cases"]}
    for name, tolerance in (("zero1", 1e-3), ("zero2", 1e-3), ("zero3", 0.15)):  # DiT-tiny: 8 % of its weights are small ones
        assert cases[name]["model_bytes"] == pytest.approx(cases[name]["bytes"], rel=tolerance)
