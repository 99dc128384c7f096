"""`ditscale sample` against diffusers' `DiTPipeline` with the same weights: DDIM with guidance. Ratios from one run, in turns.

    python benchmarks/sample_pipeline.py [--model DiT-S/2] [--images 4] [--steps 50] [--rounds 3] [--compile]

Random weights of a DiT and a small random autoencoder, the same for both. Ours is an imported run, sampled as `ditscale sample` does it,
on the threads given by OMP_NUM_THREADS (on a CPU, the command itself uses one thread per rank). `--compile` adds ours compiled.
Ratios above 1: ours is faster; `cpu` are those of processor seconds, for a machine that others use too. On a CPU, `limit` is what the
model's MACs take at the speed of a large fp32 product, measured in the same turns: no fp32 sampler that runs this model in both halves of
guidance can be faster. The last line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline
from tiny import parse

from ditscale.evaluation.sampling.maker import ImageMaker
from ditscale.evaluation.sampling.model import choose_weights
from ditscale.evaluation.sampling.sampleset import settings_of
from ditscale.models.convert import save_model, to_diffusers
from ditscale.models.dit import DiT, create_model
from ditscale.models.macs import make_backbone, plain_card
from ditscale.models.sizes import parse_model_name
from ditscale.training.checkpoint.import_weights import Asked, read_import, write_run
from ditscale.training.checkpoint.weights import run_config

GUIDANCE = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="DiT-S/2")
    parser.add_argument("--images", type=int, default=4, help="in a batch; guidance doubles it")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="ours compiled too; on a CPU this takes minutes first")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parse(parser, model="DiT-atto/8", images=2, steps=3, rounds=1)
    model = create_model(options.model, seed=0, input_size=32, in_channels=4).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(16,) * 4, norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4)
    with tempfile.TemporaryDirectory() as folder:
        works = {"pipeline": pipeline(model, vae, options), "ours": ours(model, vae, options, Path(folder), compiled=False)}
        if options.compile:
            works["compiled"] = ours(model, vae, options, Path(folder), compiled=True)
        clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
        product, flops = largest_product(options.tiny)
        if options.device == "cpu":
            works["limit"] = product
        found = {name: {clock: [] for clock in clocks} for name in works}
        for _ in range(options.rounds + 1):                                    # the first round does not count
            for name, work in works.items():
                started = {clock: read() for clock, read in clocks.items()}
                work()
                for clock, read in clocks.items():
                    found[name][clock].append(read() - started[clock])
    medians = {clock: {name: statistics.median(of_work[clock][1:]) for name, of_work in found.items()} for clock in clocks}
    card = plain_card(make_backbone(parse_model_name(options.model), resolution=32, channels=4, classes=1000))
    needed = float(card.flops) * 2 * options.images * options.steps            # both halves of guidance
    for of_clock in medians.values():
        if "limit" in of_clock:
            of_clock["limit"] *= needed / flops
    print(json.dumps({"benchmark": "sample_pipeline", "tiny": options.tiny, "torch": torch.__version__, "device": options.device,
                      "threads": torch.get_num_threads(), "model": options.model, "images": options.images, "steps": options.steps,
                      **{clock: {name: round(value, 4) for name, value in of_clock.items()} for clock, of_clock in medians.items()},
                      **over_pipeline("", medians["seconds"]), **over_pipeline("cpu_", medians["cpu_seconds"])}))


def over_pipeline(prefix: str, medians: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}pipeline_over_{name}": round(medians["pipeline"] / value, 3) for name, value in medians.items() if name != "pipeline"}


def largest_product(tiny: bool) -> tuple[Callable[[], object], float]:
    """A large matrix product, and its FLOPs."""
    size = 64 if tiny else 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    return lambda: a @ b, 2.0 * size**3


def pipeline(model: DiT, vae: AutoencoderKL, options):
    pipe = DiTPipeline(to_diffusers(model), vae, DDIMScheduler(clip_sample=False)).to(options.device)
    pipe.set_progress_bar_config(disable=True)
    return lambda: pipe(class_labels=list(range(options.images)), guidance_scale=GUIDANCE, num_inference_steps=options.steps,
                        generator=torch.Generator(options.device).manual_seed(0))


def ours(model: DiT, vae: AutoencoderKL, options, folder: Path, compiled: bool):
    name = "compiled" if compiled else "eager"
    save_model(model, folder / f"{name}.pt")
    vae.save_pretrained(folder / "vae")
    changes = {"resources.compile": compiled} if compiled else {}
    run = write_run(read_import(folder / f"{name}.pt", Asked(like="dit", heads=model.num_heads, changes=changes), ""), folder / name)
    config = run_config(run)
    settings = settings_of(config, {"sampler": "ddim", "sampling_steps": options.steps, "guidance_scale": GUIDANCE, "labels": "balanced",
                                    "batch": options.images, "vae": str(folder / "vae")}, name)
    maker = ImageMaker(config, settings, options.device)
    maker.load(choose_weights(run, None, "ema")[0])
    return lambda: maker.make(torch.arange(options.images), 0)


if __name__ == "__main__":
    main()
