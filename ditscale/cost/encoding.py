"""What it costs to encode images to latents, once for all runs of a data set. No torch."""

import json
from pathlib import Path

# Configs that make the encoder whose MACs are counted here: Stable Diffusion's, of 83.7 M parameters with the decoder.
STABLE_DIFFUSION = {"_class_name": "AutoencoderKL", "in_channels": 3, "latent_channels": 4, "block_out_channels": [128, 256, 512, 512],
                    "layers_per_block": 2}
NAMES = ("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-ema")            # on the hub; a folder says it in its config.json
MACS_PER_CELL = 132_116_544                                                    # convolutions and projections
ATTENTION_WIDTH = 512                                                          # of the one attention over all cells


def stable_diffusion_macs(cells: int) -> int:
    """MACs of Stable Diffusion's encoder for one image of so many latent cells (256 px: 32 x 32), counted like a DiT's.

    136.4 G at 256 px, 558.3 G at 512 px: more than a forward of DiT-XL/2 (118.6 G and 524.6 G). A test counts them anew.
    """
    return MACS_PER_CELL * cells + 2 * ATTENTION_WIDTH * cells**2


def encoder_macs(vae: str | None, cells: int) -> int | None:
    """MACs of the encoder that a name on the hub, or a folder, stands for; None where they are not known."""
    return stable_diffusion_macs(cells) if vae in NAMES or (vae and _is_stable_diffusion(Path(vae))) else None


def _is_stable_diffusion(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text())
        return all(config.get(key) == value for key, value in STABLE_DIFFUSION.items()) and config.get("mid_block_add_attention", True)
    except (OSError, ValueError, AttributeError):
        return False
