#!/usr/bin/env bash
# diffusers 0.42.1: DiTTransformer2DModel embeds timesteps with other frequencies than the released DiT; its config cannot say so.
#
# The released DiT uses 10000^(-i/128) for i = 0 to 127. This port fixes downscale_freq_shift = 1 in its code, which gives
# 10000^(-i/127): with the same weights the outputs differ. Setting the attribute to 0 on every block mends a model in memory, but
# it is no config key: save_pretrained drops it and from_pretrained brings the other frequencies back, without a warning.
#
# A small model with random weights. Exit status: 0 while diffusers behaves so, 1 once it does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6 diffusers==0.42.1
cd "$work"
cat > check.py <<'PYTHON'
import sys

import diffusers
import torch
from diffusers import DiTTransformer2DModel

diffusers.logging.set_verbosity_error()


def frequencies(model):
    """Of the sinusoid: the embedding of t = 1 is 128 cosines, then 128 sines."""
    embedding = model.transformer_blocks[0].norm1.emb.time_proj(torch.tensor([1.0]))[0].double()
    return torch.atan2(embedding[128:], embedding[:128])


def output(model):
    with torch.no_grad():
        return model(x, timestep=torch.tensor([999, 500]), class_labels=torch.tensor([1, 2])).sample


def distance(a, b):
    return float((a - b).abs().max() / b.abs().max())


def off(a, b):
    return float(((a - b) / b).abs().max())


torch.manual_seed(0)
model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=16, in_channels=4, num_layers=2, sample_size=8,
                              num_embeds_ada_norm=10).eval()
x = torch.randn(2, 4, 8, 8)
released, shifted = (10000.0 ** (-torch.arange(128, dtype=torch.float64) / n) for n in (128, 127))
as_built, built = output(model), frequencies(model)
for block in model.transformer_blocks:
    block.norm1.emb.time_proj.downscale_freq_shift = 0
as_released, mended = output(model), frequencies(model)
model.save_pretrained("saved")
loaded_model = DiTTransformer2DModel.from_pretrained("saved", low_cpu_mem_usage=False).eval()
as_loaded = output(loaded_model)
stored = [key for key in model.config if "freq" in key or "shift" in key]

print(f"diffusers {diffusers.__version__}, torch {torch.__version__}; largest relative distances")
print(f"frequencies as built: to 10000^(-i/128) {off(built, released):.1e} (expected: rounding), "
      f"to 10000^(-i/127) {off(built, shifted):.1e}")
print(f"frequencies with the attribute 0: to 10000^(-i/128) {off(mended, released):.1e}")
print(f"outputs with the same weights: built against mended {distance(as_built, as_released):.2e}")
print(f"outputs after saving and loading the mended: to the mended {distance(as_loaded, as_released):.2e} (expected: 0), "
      f"to the built {distance(as_loaded, as_built):.0e}; config keys about it: {stored}")
holds = (off(built, shifted) < 1e-4 and off(mended, released) < 1e-4 and off(built, released) > 1e-2
         and distance(as_built, as_released) > 1e-3 and torch.equal(as_loaded, as_built) and not stored)
print("as found: other frequencies, lost on saving" if holds else "CHANGED: not as found")
sys.exit(not holds)
PYTHON
"$work/venv/bin/python" check.py
