"""Where the time of a CPU's training step goes, against this machine's own limits: one table a case, parts timed in turns.

    python benchmarks/roofline.py [--cases DiT-S/8:64,DiT-S/2:8,DiT-B/4:24] [--precisions fp32,bf16] [--rounds 5] [--no-compile]

The step is that of train_step.py's plain loop: ditscale's model and DDPM objective, AdamW on fp32 masters, an average; eager, and with
compiled blocks. Its parts are timed alone at the model's shapes: the matrix products of the blocks, forward and backward, attention, the
elementwise work between them (norms with modulation, GELU, gates), the optimizer (in bf16 with the copies to and from the masters), the
average, and a batch of the loader. `rest` is the step without them: embeddings, loss, draws, and what the parts cost more or less together.

Limits are measured in the same turns: a large matrix product in the same precision, and the addition of two large tensors. A part's limit
is what its FLOPs take at that product's speed, or its bytes at that addition's, whichever is longer. `step_over_limit` is the step's
time over the sum of its parts' limits; `product_limit_seconds` is the time of the products alone at that speed, which no loop of this
model in this precision can pass. Seconds are the median of processor time with one thread, which other work on the machine changes little;
with more threads, of the clock. The last line is one JSON object.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tiny import parse
from torch import Tensor
from train_step import SHAPE, PlainLoop, make_run

from ditscale.data.loader import StreamLoader
from ditscale.data.prepare import make_prepare
from ditscale.models.blocks.modules import modulate
from ditscale.models.linear import CPU_HAS_BF16_UNITS
from ditscale.models.sizes import parse_model_name, token_grid
from ditscale.training.loop import prepare_blocks

PEAK_SIZE, PEAK_FLOATS = 2048, 32 * 2**20
MODES = ("eager", "compiled")


class Part(NamedTuple):
    """What is timed, with its FLOPs and the bytes that it moves."""

    work: Callable[[], object]
    flops: float = 0.0
    moved: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="DiT-S/8:64,DiT-S/2:8,DiT-B/4:24", help="model:batch, comma-separated")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="eager alone; compiling takes a minute or more per case")
    options = parse(parser, cases="DiT-atto/8:2", rounds=1, no_compile=True)
    options.steps, found = 1, []
    for case, precision in itertools.product(options.cases.split(","), options.precisions.split(",")):
        options.model, options.batch, options.precision = case.split(":")[0], int(case.split(":")[1]), precision
        found.append(measure(options))
    print(json.dumps({"benchmark": "roofline", "tiny": options.tiny, "torch": torch.__version__, "threads": torch.get_num_threads(),
                      "clock": "processor" if torch.get_num_threads() == 1 else "wall", "bf16_units": CPU_HAS_BF16_UNITS, "cases": found}))


def measure(options) -> dict:
    """One case: the seconds of its parts and of the whole step, beside their limits."""
    dtype = torch.bfloat16 if options.precision == "bf16" and CPU_HAS_BF16_UNITS else torch.float32      # what products are computed in
    with tempfile.TemporaryDirectory() as folder:
        config, _ = make_run(Path(folder), options)
        loops = {mode: PlainLoop(config, torch.device("cpu")) for mode in (MODES[:1] if options.no_compile else MODES)}
        for mode, loop in loops.items():
            prepare_blocks(loop.model, config.resources.model_copy(update={"compile": mode == "compiled"}))
        parts, peaks = step_parts(options, dtype, loops["eager"]), limits(options.tiny, dtype)
        loader = StreamLoader(config.data.path, seed=0, global_batch=options.batch, micro_batch=options.batch, end_images=config.train.images,
                              backend=config.resources.loader, pick=make_prepare(config.data).pick)
        try:
            batches = iter(loader)
            parts["loader"] = Part(lambda: next(batches), moved=4.0 * options.batch * 2 * torch.Size(SHAPE).numel())
            works = {name: part.work for name, part in (peaks | parts).items()} | {mode: loop.step for mode, loop in loops.items()}
            seconds = take_turns(works, options.rounds)
        finally:
            loader.close()
    return table(options, parts, peaks, seconds, list(loops))


def table(options, parts: dict[str, Part], peaks: dict[str, Part], seconds: dict[str, float], modes: list[str]) -> dict:
    """Printed, and for JSON."""
    peak_flops, peak_bytes = peaks["product"].flops / seconds["product"], peaks["addition"].moved / seconds["addition"]
    step, rows = seconds["eager"], {}
    print(f"\n{options.model}, batch {options.batch}, {options.precision}: {', '.join(f'{mode} {1e3 * seconds[mode]:.1f} ms' for mode in modes)}; "
          f"largest product {peak_flops / 1e9:.0f} GFLOP/s, addition {peak_bytes / 1e9:.1f} GB/s")
    for name, part in parts.items():
        limit = max(part.flops / peak_flops, part.moved / peak_bytes)
        rows[name] = {"seconds": seconds[name], "share": seconds[name] / step, "limit_seconds": limit, "of_limit": limit / seconds[name]}
        print(f"{name:<20} {seconds[name] * 1e3:9.1f} ms {seconds[name] / step:5.0%} of the step   at the limit {limit * 1e3:9.1f} ms "
              f"({limit / seconds[name]:.0%})")
    rest = step - sum(seconds[name] for name in parts)
    print(f"{'rest':<20} {rest * 1e3:9.1f} ms {rest / step:5.0%} of the step")
    products = sum(part.flops for part in parts.values()) / peak_flops
    whole = sum(row["limit_seconds"] for row in rows.values())
    return {"model": options.model, "batch": options.batch, "precision": options.precision, "peak_gflops": round(peak_flops / 1e9, 1),
            "peak_gigabytes_per_second": round(peak_bytes / 1e9, 2), "parts": {name: rounded(row) for name, row in rows.items()},
            "step_seconds": {mode: round(seconds[mode], 5) for mode in modes}, "rest_seconds": round(rest, 5),
            "limit_seconds": round(whole, 5), "product_limit_seconds": round(products, 5),
            "step_over_limit": {mode: round(seconds[mode] / whole, 3) for mode in modes},
            "step_over_product_limit": {mode: round(seconds[mode] / products, 3) for mode in modes}}


def rounded(row: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in row.items()}


def limits(tiny: bool, dtype: torch.dtype) -> dict[str, Part]:
    """A large matrix product, and a large addition in fp32."""
    size, count = (64, 2**12) if tiny else (PEAK_SIZE, PEAK_FLOATS)
    a, b, x, y = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype), torch.randn(count), torch.randn(count)
    return {"product": Part(lambda: a @ b, flops=2.0 * size**3), "addition": Part(lambda: x.add_(y), moved=12.0 * count)}


def step_parts(options, dtype: torch.dtype, loop: PlainLoop) -> dict[str, Part]:
    """The parts of a step of a plain adaLN-Zero DiT. Bytes are those of one pass over each operand, as a fused kernel would move them."""
    named, batch = parse_model_name(options.model), options.batch
    depth, width, heads = named.dims.depth, named.dims.hidden_size, named.dims.num_heads
    tokens = token_grid(SHAPE[1], named.patch_size) ** 2
    rows, count = batch * tokens, sum(p.numel() for p in loop.masters)
    products = [(rows, width, 3 * width), (rows, width, width), (rows, width, 4 * width), (rows, 4 * width, width), (batch, width, 6 * width)]
    operands = [tuple(torch.randn(shape, dtype=dtype) for shape in ((m, k), (n, k), (m, n))) for m, k, n in products]
    flops, attention = depth * sum(2.0 * m * k * n for m, k, n in products), 3 * depth * 4.0 * batch * tokens**2 * width
    elementwise = torch.bfloat16 if options.precision == "bf16" else torch.float32
    floats, copies = float(elementwise.itemsize) * rows * width, 12.0 if loop.masters is not loop.forward_weights else 0.0
    loop.step()                                                                # the optimizer's part needs gradients
    return {
        "products forward": Part(_products_forward(operands, depth), flops),
        "products backward": Part(_products_backward(operands, depth), 2 * flops),
        "attention": Part(_attention(batch, heads, tokens, width // heads, depth, dtype), attention),
        "norms, GELU, gates": Part(_elementwise(batch, tokens, width, depth, elementwise), moved=depth * floats * (2 * 8 + 4 * 5 + 2 * 8)),
        "optimizer": Part(_optimizer(loop), moved=count * (4.0 * 7 + copies)),  # AdamW reads 4 tensors, writes 3
        "average": Part(lambda: torch._foreach_lerp_(loop.averages, [p.detach() for p in loop.masters], 1e-4), moved=4.0 * count * 3),
    }


def _products_forward(operands: list[tuple[Tensor, ...]], depth: int) -> Callable[[], None]:
    return lambda: _repeat(depth, lambda: [F.linear(x, weight) for x, weight, _ in operands])


def _products_backward(operands: list[tuple[Tensor, ...]], depth: int) -> Callable[[], None]:
    """To the inputs and to the weights."""
    return lambda: _repeat(depth, lambda: [(grad @ weight, grad.T @ x) for x, weight, grad in operands])


def _attention(batch: int, heads: int, tokens: int, width: int, depth: int, dtype: torch.dtype) -> Callable[[], None]:
    q, k, v = (torch.randn(batch, heads, tokens, width, dtype=dtype, requires_grad=True) for _ in range(3))
    grad = torch.randn(batch, heads, tokens, width, dtype=dtype)
    return lambda: _repeat(depth, lambda: F.scaled_dot_product_attention(q, k, v).backward(grad))


def _elementwise(batch: int, tokens: int, width: int, depth: int, dtype: torch.dtype) -> Callable[[], None]:
    x, hidden = (torch.randn(batch, tokens, size, dtype=dtype, requires_grad=True) for size in (width, 4 * width))
    shift, scale, gate = (torch.randn(batch, width, requires_grad=True) for _ in range(3))
    grads = [torch.randn_like(x), torch.randn_like(x), torch.randn_like(hidden)]

    def block() -> None:
        branches = [(gate[:, None] * modulate(x, shift, scale)).to(dtype) + x for _ in range(2)]
        torch.autograd.backward([*branches, F.gelu(hidden, approximate="tanh")], grads)
    return lambda: _repeat(depth, block)


def _optimizer(loop: PlainLoop) -> Callable[[], None]:
    def work() -> None:
        if loop.masters is not loop.forward_weights:
            for master, p in zip(loop.masters, loop.forward_weights, strict=True):
                master.grad = p.grad.float()
        loop.optimizer.step()
        if loop.masters is not loop.forward_weights:
            with torch.no_grad():
                torch._foreach_copy_(loop.forward_weights, loop.masters)
    return work


def _repeat(times: int, work: Callable[[], object]) -> None:
    for _ in range(times):
        work()


def take_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, one call each in turn, after one that does not count."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            started = clock()
            work()
            seconds[name].append(clock() - started)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


if __name__ == "__main__":
    main()
