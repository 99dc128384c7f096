#!/usr/bin/env bash
# diffusers 0.42.1: DiTPipeline guides with class 1000 whatever the model's number of classes.
#
# The null class of a DiT is the row after its last class, and DiTTransformer2DModel's own label dropout uses that row: num_embeds_ada_norm. The
# pipeline has the number 1000 in its code. A model of 1200 classes is guided away from its class 1000, without a warning; a model of 10 classes
# ends in an IndexError. Only with 1000 classes is it the null class. Reported in diffusers issue 13616 (its issue 1).
#
# Small models with random weights. Exit status: 0 while diffusers behaves so, 1 once it does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6 diffusers==0.42.1
cd "$work"
cat > check.py <<'PYTHON'
import sys
import warnings

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

diffusers.logging.set_verbosity_error()
warnings.filterwarnings("ignore", "To copy construct from a tensor")           # of the embedder's own code


def made(classes):
    """The labels of one guided step of class 3, or the error; and the label that the model's own dropout gives."""
    model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
                                  num_embeds_ada_norm=classes).eval()
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",),
                        up_block_types=("UpDecoderBlock2D",))
    embedder, seen = model.transformer_blocks[0].norm1.emb.class_embedder, []
    dropped = int(embedder.token_drop(torch.tensor([3]), force_drop_ids=torch.tensor([1])))
    model.register_forward_pre_hook(lambda module, args, options: seen.append(options["class_labels"].tolist()), with_kwargs=True)
    pipeline = DiTPipeline(model, vae, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    try:
        pipeline(class_labels=[3], guidance_scale=4.0, num_inference_steps=1, output_type="np")
        error = ""
    except IndexError as found:
        error = f", IndexError: {found}"
    return seen[0], dropped, error


torch.manual_seed(0)
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}; labels of a guided step of class 3")
holds = True
for classes in (1000, 1200, 10):
    labels, dropped, error = made(classes)
    print(f"{classes} classes: {labels}{error}; expected [3, {dropped}], the model's null class")
    holds = holds and labels == [3, 1000] and dropped == classes and bool(error) == (classes < 1000)
print("as found: class 1000 for every model" if holds else "CHANGED: not as found")
sys.exit(not holds)
PYTHON
"$work/venv/bin/python" check.py
