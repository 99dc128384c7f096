"""A step of `train()` against the loop that the released DiT trains with. Ratios from one run, in turns.

    python benchmarks/released_loop.py [--cases DiT-S/8:64,DiT-S/2:8,DiT-B/4:24] [--precisions fp32,bf16] [--rounds 12] [--compile]

`train()` is the real one: ZeRO-1 on one rank, loader, counter-based noise, telemetry, average. The other loop does the operations of the
released script, written here anew: timm's patch embedding, attention and MLP; DDPM's loss with the learned variance's bound for every
image; torch's default AdamW; an average that is moved one parameter at a time. In bf16 it uses autocast with fp32 weights, as its
faster forks do. It keeps one batch on the device, so it pays for no loader. With `--compile`, `train()` compiles its blocks
(resources.compile) and the other loop stays eager. Ratios above 1: `train()` is faster. The last line is one JSON object.
"""

import argparse
import json
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Mlp, PatchEmbed
from tiny import parse
from torch import Tensor, nn
from train_step import CLASSES, SHAPE, WARM_UP, Turns, device_name, make_run, seconds_by_part

from ditscale.config import RunConfig
from ditscale.models.layers import sincos_position_table
from ditscale.models.sizes import parse_model_name
from ditscale.training.distributed import join_world
from ditscale.training.loop import train

STEPS = 1000
DROPPED = 0.1                                                                  # labels that become the null class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="DiT-S/8:64,DiT-S/2:8,DiT-B/4:24", help="model:batch, comma-separated")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=16 if torch.cuda.is_available() else 1, help="in a round")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of train(); on a CPU it takes a minute or more per case")
    options = parse(parser, cases="DiT-atto/8:4", precisions="fp32", rounds=3, steps=1)
    world = join_world()
    results = {"benchmark": "released_loop", "tiny": options.tiny, "torch": torch.__version__, "device": device_name(world.device),
               "threads": torch.get_num_threads(), "compile": options.compile, "rounds": options.rounds, "cases": []}
    for case in options.cases.split(","):
        for precision in options.precisions.split(","):
            options.model, options.batch, options.precision = case.split(":")[0], int(case.split(":")[1]), precision
            results["cases"].append(measure(options, world))
            print(results["cases"][-1], flush=True)
    print(json.dumps(results))


def measure(options, world) -> dict:
    """Medians of one case, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        config, run = make_run(Path(folder), options)
        turns = Turns(ReleasedLoop(config, world.device), options)
        train(config, run, world, stop=turns)
        parts = seconds_by_part([json.loads(line) for line in run.metrics.read_text().splitlines()], options)
    ours, released = (statistics.median(seconds[WARM_UP:]) / options.steps for seconds in (turns.ours, turns.plain))
    return {"model": options.model, "batch": options.batch, "precision": options.precision, "train_step_seconds": round(ours, 5),
            "released_step_seconds": round(released, 5), "released_over_ours": round(released / ours, 3), "train_seconds_by_part": parts}


class ReleasedLoop:
    """One step of the released training script, on one batch of latents."""

    def __init__(self, config: RunConfig, device: torch.device):
        count = config.train.global_batch
        self.model, self.average = (ReleasedDiT(config.model.name).to(device) for _ in range(2))
        self.average.requires_grad_(False)
        self.decay, self.bound = config.train.ema_decay, LearnedVarianceLoss()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.train.lr, weight_decay=0.0)
        self.latents = torch.randn(count, *SHAPE, device=device)
        self.labels = torch.randint(CLASSES, (count,), device=device)
        self.autocast = torch.autocast(device.type, torch.bfloat16) if config.train.precision == "bf16" else nullcontext()

    def step(self) -> None:
        t = torch.randint(0, STEPS, (len(self.latents),), device=self.latents.device)
        with self.autocast:
            loss = self.bound(self.model, self.latents, t, self.labels).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for averaged, p in zip(self.average.parameters(), self.model.parameters(), strict=True):
                averaged.mul_(self.decay).add_(p.data, alpha=1 - self.decay)


class ReleasedBlock(nn.Module):
    """An adaLN-Zero block of timm's parts."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.attn = Attention(width, num_heads=heads, qkv_bias=True)
        self.mlp = Mlp(width, 4 * width, act_layer=lambda: nn.GELU(approximate="tanh"), drop=0)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c).chunk(6, dim=1)
        x = x + gate_a.unsqueeze(1) * self.attn(self.norm1(x) * (1 + scale_a.unsqueeze(1)) + shift_a.unsqueeze(1))
        return x + gate_m.unsqueeze(1) * self.mlp(self.norm2(x) * (1 + scale_m.unsqueeze(1)) + shift_m.unsqueeze(1))


class ReleasedDiT(nn.Module):
    """The released architecture: (B, 4, 32, 32), t (B,), labels (B,) to (B, 8, 32, 32)."""

    def __init__(self, name: str):
        super().__init__()
        named = parse_model_name(name)
        size = named.dims
        width, self.patch = size.hidden_size, named.patch_size
        channels, side, _ = SHAPE
        self.embed = PatchEmbed(side, self.patch, channels, width, bias=True)
        self.register_buffer("places", sincos_position_table(width, side // self.patch))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(CLASSES + 1, width)
        self.blocks = nn.ModuleList(ReleasedBlock(width, size.num_heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.out = nn.Linear(width, self.patch**2 * 2 * channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        rates = torch.exp(-np.log(10000.0) * torch.arange(128, dtype=torch.float32) / 128).to(t.device)
        angle = t[:, None].float() * rates[None]
        y = torch.where(torch.rand(len(y), device=y.device) < DROPPED, CLASSES, y)
        c = self.time(torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)) + self.classes(y)
        tokens = self.embed(x) + self.places
        for block in self.blocks:
            tokens = block(tokens, c)
        shift, scale = self.modulation(c).chunk(2, dim=1)
        tokens = self.out(self.norm(tokens) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1))
        grid, p = x.shape[-1] // self.patch, self.patch
        image = tokens.reshape(len(x), grid, grid, p, p, -1)
        return torch.einsum("nhwpqc->nchpwq", image).reshape(len(x), -1, grid * p, grid * p)


class LearnedVarianceLoss:
    """Mean squared error of the noise, and the variational bound of the learned variance for every image (iDDPM, eq. 15), from tables
    in float64 that are copied to the device at each use, as in the code that the release builds on."""

    def __init__(self):
        beta = np.linspace(1e-4, 0.02, STEPS, dtype=np.float64)
        bar = np.cumprod(1 - beta)
        before = np.append(1.0, bar[:-1])
        variance = beta * (1 - before) / (1 - bar)
        self.tables = {"keep": np.sqrt(bar), "noise": np.sqrt(1 - bar), "recip": np.sqrt(1 / bar), "recipm1": np.sqrt(1 / bar - 1),
                       "from_clean": beta * np.sqrt(before) / (1 - bar), "from_noisy": (1 - before) * np.sqrt(1 - beta) / (1 - bar),
                       "log_small": np.log(np.append(variance[1], variance[1:])), "log_large": np.log(beta)}

    def __call__(self, model, clean: Tensor, t: Tensor, y: Tensor) -> Tensor:
        def at(name: str) -> Tensor:
            return torch.from_numpy(self.tables[name]).to(t.device)[t].float()[:, None, None, None].expand(clean.shape)

        noise = torch.randn_like(clean)
        noisy = at("keep") * clean + at("noise") * noise
        out, fraction = torch.split(model(noisy, t, y), clean.shape[1], dim=1)
        mean = at("from_clean") * clean + at("from_noisy") * noisy
        share = (fraction + 1) / 2
        log_variance = share * at("log_large") + (1 - share) * at("log_small")
        guess = at("recip") * noisy - at("recipm1") * out.detach()
        guessed_mean = at("from_clean") * guess + at("from_noisy") * noisy
        kl = 0.5 * (-1.0 + log_variance - at("log_small") + torch.exp(at("log_small") - log_variance)
                    + (mean - guessed_mean) ** 2 * torch.exp(-log_variance))
        bound = torch.where(t == 0, self._likelihood(clean, guessed_mean, 0.5 * log_variance), kl.mean(dim=(1, 2, 3)) / np.log(2.0))
        return F.mse_loss(out, noise, reduction="none").mean(dim=(1, 2, 3)) + bound

    @staticmethod
    def _likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Minus the log likelihood of 8-bit values in bits, computed for all images and used at t = 0."""
        def cdf(value: Tensor) -> Tensor:
            return 0.5 * (1.0 + torch.tanh(np.sqrt(2.0 / np.pi) * (value + 0.044715 * value**3)))

        off, inverse = x - mean, torch.exp(-log_scale)
        above, below = cdf(inverse * (off + 1 / 255)), cdf(inverse * (off - 1 / 255))
        log = torch.where(x < -0.999, above.clamp(min=1e-12).log(),
                          torch.where(x > 0.999, (1 - below).clamp(min=1e-12).log(), (above - below).clamp(min=1e-12).log()))
        return -log.mean(dim=(1, 2, 3)) / np.log(2.0)


if __name__ == "__main__":
    main()
