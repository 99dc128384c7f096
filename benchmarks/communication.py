"""Bytes that DeepSpeed really hands to collectives in a training step, and the seconds they take, against the model of a plan.

    python benchmarks/communication.py [--model DiT-S/8] [--ranks 1 2 4] [--steps 4]

Each case is `train()` itself on so many CPU ranks over gloo, at one strategy and one accumulation; collectives of torch.distributed
are counted by what each rank must send in a ring, Muon's all-to-all (--optimizer muon) by what it sends. The first two steps, in which
stage 3 learns the order of layers, do not count.
Seconds are those of calls that the rank waits in (stage 3 gathers beside the computing), waiting for slower ranks included; the
model's rest on gloo's own bandwidth, that of all-reduces of the gradient's size just before. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tiny import parse

WARM_UP = 2                                                                    # steps
SHARE = {"all_to_all_single": None, "all_reduce": 2, "all_gather_into_tensor": 1, "reduce_scatter_tensor": 1, "reduce": 1}
STRATEGIES = {
    "zero0": {"stage": 0}, "zero1": {"stage": 1}, "zero2": {"stage": 2}, "zero3": {"stage": 3},
    "zero1-reduces": {"stage": 1, "use_multi_rank_bucket_allreduce": False},
    "zero3-short-reuse": {"stage": 3, "stage3_max_reuse_distance": 33_000_000},
    "zero3-quarter-kept": {"stage": 3, "stage3_max_reuse_distance": 16_500_000, "stage3_prefetch_bucket_size": 0},
    "zero3-releasing": {"stage": 3, "stage3_max_reuse_distance": 0, "stage3_max_live_parameters": 0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="DiT-S/8")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=4, help="that count")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--optimizer", default="adamw", choices=["adamw", "muon"])
    parser.add_argument("--micro-steps", type=int, nargs="+", default=[1, 2])
    options = parse(parser, model="DiT-atto/8", ranks=[2], steps=1, strategies=["zero1"], micro_steps=[1])
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for ranks in options.ranks:
            found = measure(Path(folder) / str(ranks), ranks, options)
            for case in found:
                print(f"{ranks} rank(s), {case['strategy']}, {case['micro_steps']} micro step(s), {case['precision']}: "
                      f"sent {case['bytes'] / 1e6:.3f} MB a step, model {case['model_bytes'] / 1e6:.3f} MB; "
                      f"{case['seconds']:.3f} s in collectives, model {case['model_seconds']:.3f} s", flush=True)
            cases += found
    errors = [abs(case["model_bytes"] / case["bytes"] - 1) for case in cases if case["ranks"] > 1]
    print(json.dumps({"benchmark": "communication", "torch": torch.__version__, "device": "cpu", "backend": "gloo",
                      "model": options.model, "steps": options.steps, "tiny": options.tiny,
                      "largest_error_of_bytes": round(max(errors), 5) if errors else None, "cases": cases}))


def measure(folder: Path, ranks: int, options) -> list[dict]:
    """Start the ranks on all cases and read what rank 0 counted."""
    from ditscale.training.ports import free_port

    folder.mkdir()
    make_cases(folder, ranks, options)
    shared = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
              "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, __file__, "--rank-of", str(folder)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(ranks)]
    said = [rank.communicate()[0] for rank in started]
    if any(rank.returncode for rank in started):
        sys.exit("\n".join(said))
    return json.loads((folder / "cases.json").read_text())


def make_cases(folder: Path, ranks: int, options) -> None:
    """A run directory a case, all on the same random latents."""
    from made_data import write_latents

    from ditscale.config import resolve
    from ditscale.rundir import RunDir

    write_latents(folder / "latents.beton")
    for name in options.strategies:
        strategy = folder / f"{name}.json"
        strategy.write_text(json.dumps({"zero_optimization": STRATEGIES[name]}))
        for micro_steps in options.micro_steps:
            batch = 8
            images = (WARM_UP + options.steps) * batch
            config = resolve({
                "model": {"name": options.model}, "formulation": {"name": "flow"}, "objective": {"name": "baseline"},
                "data": {"name": "latents", "path": str(folder / "latents.beton"), "resolution": 32, "channels": 4, "classes": 1000},
                "train": {"images": images, "global_batch": batch, "checkpoint_every_images": images, "optimizer": {"name": options.optimizer},
                          "precision": "fp32" if name == "zero0" else "bf16"},
                "resources": {"deepspeed": str(strategy), "accelerators_per_run": ranks, "log_every_images": images,
                              "micro_batch": batch // ranks // micro_steps},
            }, "benchmark")
            run = RunDir(folder / f"{name}-{micro_steps}")
            run.create({"run_id": run.path.name, "config": config.model_dump(mode="json")})


class Collectives:
    """Counts what goes through torch.distributed: bytes that a rank sends in a ring, calls, and seconds until done."""

    def __init__(self):
        self.calls, self.bytes, self.seconds = 0, 0.0, 0.0
        for name, share in SHARE.items():
            setattr(dist, name, self._counted(getattr(dist, name), name, share))

    def _counted(self, send, name: str, share: int | None):
        def counted(*arguments, **options):
            ranks = dist.get_world_size()
            whole = max(tensor.numel() * tensor.element_size() for tensor in (*arguments, *options.values())
                        if isinstance(tensor, torch.Tensor))
            started = time.perf_counter()
            handle = send(*arguments, **options)
            self.calls += 1
            self.bytes += share * whole * (ranks - 1) / ranks if share else arguments[1].numel() * arguments[1].element_size()
            if handle is None:                                                 # else somebody waits for it beside the computing
                self.seconds += time.perf_counter() - started
            return handle
        return counted


def gloo_bandwidth(size: int, repeats: int = 5) -> float:
    """Bytes/s that each rank sends in an all-reduce of so many bytes, the median of a few."""
    whole, seconds = torch.zeros(size // 4), []
    for _ in range(repeats):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(whole)
        seconds.append(time.perf_counter() - started)
    ranks = dist.get_world_size()
    return 2 * (ranks - 1) / ranks * size / statistics.median(seconds)


def run_cases(folder: Path) -> None:
    """A rank: train all cases, one after another, and count."""
    counter = Collectives()                                                    # before DeepSpeed takes hold of the functions
    from ditscale.config import resolve
    from ditscale.cost.communication import communication
    from ditscale.cost.hardware import Links
    from ditscale.cost.runs import run_card, run_collectives
    from ditscale.rundir import RunDir
    from ditscale.training.distributed import join_world
    from ditscale.training.loop import train
    from ditscale.training.zero.strategy import sharding

    world, cases = join_world(), []
    for path in sorted(record.parent for record in folder.glob("*/run.json")):
        run, marks = RunDir(path), []
        config = resolve(run.read_record()["config"], str(path))

        def mark() -> bool:
            marks.append((counter.calls, counter.bytes, counter.seconds))
            return False

        parameters = run_card(config).parameters
        bandwidth = gloo_bandwidth(4 * parameters) if world.size > 1 else Links.node_bandwidth
        train(config, run, world, stop=mark)
        steps = [[after - before for before, after in zip(*pair)] for pair in zip(marks[WARM_UP - 1:], marks[WARM_UP:])]
        calls, sent, seconds = (statistics.median(column) for column in zip(*steps))
        name, micro_steps = path.name.rsplit("-", 1)
        model = communication(
            run_collectives(config, sharding(config.resources.deepspeed), int(micro_steps), in_fp32=True), world.size, Links(node_bandwidth=bandwidth))
        cases.append({"ranks": world.size, "strategy": name, "micro_steps": int(micro_steps), "precision": config.train.precision,
                      "calls": calls, "bytes": sent, "model_bytes": model.bytes, "seconds": round(seconds, 4),
                      "model_seconds": round(model.seconds, 4), "gloo_bytes_per_second": round(bandwidth)})
    if world.is_main:
        (folder / "cases.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    if "--rank-of" in sys.argv:
        run_cases(Path(sys.argv[-1]))
    else:
        main()
