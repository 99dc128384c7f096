"""Where the time of a training step goes, against this machine's own limits. One table, parts timed in turns.

    python benchmarks/roofline.py [--model DiT-S/8] [--batch 64] [--rounds 7]

Limits are measured in the same turns: a large matrix product, and the addition of two large tensors. The parts of a step of a
plain adaLN-Zero DiT in fp32 are timed at the model's shapes, forward and backward: the matrix products of the blocks, attention, the
elementwise work between them (norms with modulation, GELU, gates), AdamW and the average. `limit_seconds` is the time that the part's FLOPs
would take at that product's speed, or its bytes at that addition's; `step_limit_seconds` is their sum. The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from tiny import parse
from torch import Tensor

from ditscale.models.blocks.modules import modulate
from ditscale.models.dit import create_model
from ditscale.models.sizes import parse_model_name, token_grid

SIDE = 32                                                                      # of a latent
PEAK_SIZE, PEAK_FLOATS = 2048, 32 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="DiT-S/8")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parse(parser, model="DiT-atto/8", batch=2, rounds=1)
    parts = step_parts(options.model, options.batch)
    peaks = limits(options.tiny)
    seconds = take_turns({name: work for name, (work, _) in peaks.items()} | {name: work for name, (work, _, _) in parts.items()}, options.rounds)
    peak_flops, peak_bytes = (amount / seconds[name] for name, (_, amount) in peaks.items())
    rows = []
    for name, (_, flops, moved) in parts.items():
        limit = max(flops / peak_flops, moved / peak_bytes)
        rows.append({"part": name, "seconds": round(seconds[name], 5), "gflops": round(flops / 1e9, 3), "gigabytes": round(moved / 1e9, 3),
                     "limit_seconds": round(limit, 5), "of_limit": round(limit / seconds[name], 3)})
        print(f"{name:<20} {seconds[name] * 1e3:9.1f} ms   at the limit {limit * 1e3:9.1f} ms ({limit / seconds[name]:.0%})")
    whole = [row for row in rows if row["part"] == "whole step"]
    limit = sum(row["limit_seconds"] for row in rows if row not in whole)
    print(json.dumps({"benchmark": "roofline", "tiny": options.tiny, "torch": torch.__version__, "threads": torch.get_num_threads(),
                      "model": options.model, "batch": options.batch, "peak_gflops": round(peak_flops / 1e9, 1),
                      "peak_gigabytes_per_second": round(peak_bytes / 1e9, 2), "parts": rows, "step_limit_seconds": round(limit, 5),
                      "step_over_limit": round(whole[0]["seconds"] / limit, 3)}))


def limits(tiny: bool) -> dict[str, tuple[Callable[[], object], float]]:
    """A large matrix product with its FLOPs, and a large addition with the bytes that it moves."""
    size, count = (64, 2**12) if tiny else (PEAK_SIZE, PEAK_FLOATS)
    a, b, x, y = torch.randn(size, size), torch.randn(size, size), torch.randn(count), torch.randn(count)
    return {"largest product": (lambda: a @ b, 2.0 * size**3), "largest addition": (lambda: x.add_(y), 12.0 * count)}


def step_parts(name: str, batch: int) -> dict[str, tuple[Callable[[], object], float, float]]:
    """Work, FLOPs and bytes moved of each part of a step, forward and backward."""
    model, named = create_model(name, seed=0, input_size=SIDE, in_channels=4).train(), parse_model_name(name)
    depth, width, heads = named.dims.depth, named.dims.hidden_size, named.dims.num_heads
    tokens = token_grid(SIDE, named.patch_size) ** 2
    parameters = [p for p in model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    averages = [p.detach().clone() for p in parameters]
    x, t, y = torch.randn(batch, 4, SIDE, SIDE), torch.rand(batch) * 1000, torch.randint(1000, (batch,))
    rows, floats = batch * tokens, 4.0 * batch * tokens * width

    def whole() -> None:
        optimizer.zero_grad()
        model(x, t, y).square().mean().backward()
        optimizer.step()
        torch._foreach_lerp_(averages, parameters, 1e-4)

    products = [(rows, width, 3 * width), (rows, width, width), (rows, width, 4 * width), (rows, 4 * width, width), (batch, width, 6 * width)]
    product_flops = 3 * depth * sum(2.0 * m * k * n for m, k, n in products)
    attention_flops = 3 * depth * 4.0 * batch * tokens**2 * width
    model(x, t, y).square().mean().backward()                                  # AdamW's part needs gradients
    return {
        "whole step": (whole, product_flops + attention_flops, 0.0),
        "matrix products": (_products(products, depth), product_flops, 0.0),
        "attention": (_attention(batch, heads, tokens, width // heads, depth), attention_flops, 0.0),
        "norms, GELU, gates": (_elementwise(batch, tokens, width, depth), 0.0, depth * floats * (2 * 8 + 4 * 5 + 2 * 8)),
        "AdamW": (optimizer.step, 0.0, 4.0 * count * 7),                       # reads 4 tensors, writes 3
        "average": (lambda: torch._foreach_lerp_(averages, parameters, 1e-4), 0.0, 4.0 * count * 3),
    }


def _products(shapes: list[tuple[int, int, int]], depth: int) -> Callable[[], None]:
    operands = [(torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)) for m, k, n in shapes]

    def work() -> None:
        for _ in range(depth):
            for x, weight, grad in operands:
                F.linear(x, weight)
                grad @ weight                                                  # to the input
                grad.T @ x                                                     # to the weight
    return work


def _attention(batch: int, heads: int, tokens: int, width: int, depth: int) -> Callable[[], None]:
    q, k, v = (torch.randn(batch, heads, tokens, width, requires_grad=True) for _ in range(3))
    return lambda: _repeat(depth, lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())


def _elementwise(batch: int, tokens: int, width: int, depth: int) -> Callable[[], None]:
    x, hidden = (torch.randn(batch, tokens, size, requires_grad=True) for size in (width, 4 * width))
    shift, scale, gate = (torch.randn(batch, width, requires_grad=True) for _ in range(3))

    def block() -> Tensor:
        branches = [gate[:, None] * modulate(x, shift, scale) + x for _ in range(2)]
        return torch.autograd.backward([*(b.sum() for b in branches), F.gelu(hidden, approximate="tanh").sum()])
    return lambda: _repeat(depth, block)


def _repeat(times: int, work: Callable[[], object]) -> None:
    for _ in range(times):
        work()


def take_turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, one call each in turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
