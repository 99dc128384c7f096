#!/usr/bin/env bash
# torch 2.13.0: FlopCounterMode counts nothing for scaled_dot_product_attention on a CPU.
#
# A CPU's default kernel is aten::_scaled_dot_product_flash_attention_for_cpu, and the counter's table holds only the GPUs'
# fused kernels. The total of a transformer block is then too small by exactly the two attention products (4 B H N^2 D FLOPs
# forward), without a warning: a share that grows with the tokens. Under the math kernel the same block is counted in full.
# Seen too with torch 2.14.1 (not installed here). Known to torch's developers: pytorch/pytorch issue 195460.
#
# Exit status: 0 while torch behaves so, 1 once it does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6
cd "$work"
cat > check.py <<'PYTHON'
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

WIDTH, HEADS, BATCH = 384, 6, 1                                   # a block of DiT-S


class Block(torch.nn.Module):
    """Attention and MLP, the matrix products per token of a DiT block."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.GELU(), torch.nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


def flops(kernel, tokens):
    x = torch.zeros(BATCH, tokens, WIDTH)
    with torch.no_grad(), sdpa_kernel(kernel), FlopCounterMode(display=False) as counter:
        block(x)
    return counter.get_total_flops()


block = Block()
default = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]     # the CPU takes the first
holds = True
print(f"torch {torch.__version__}: forward FLOPs of one DiT-S block, batch 1, on the CPU")
for tokens in (256, 1024):
    linear = 2 * BATCH * tokens * 12 * WIDTH**2                   # qkv 3, proj 1, MLP 8 times width^2
    attention = 4 * BATCH * tokens**2 * WIDTH
    fused, math = flops(default, tokens), flops(SDPBackend.MATH, tokens)
    holds &= fused == linear and math == linear + attention
    print(f"{tokens} tokens: expected {linear + attention}; math kernel {math}; default kernel {fused}, "
          f"short by {linear + attention - fused} ({(linear + attention - fused) / (linear + attention):.1%}), "
          f"of which attention {attention}")
print("as found: the attention products are missing" if holds else "CHANGED: the counts are not as found")
sys.exit(not holds)
PYTHON
"$work/venv/bin/python" check.py
