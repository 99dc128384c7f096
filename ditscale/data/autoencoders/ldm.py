"""An autoencoder in one file with the names of latent-diffusion's code: Stable Diffusion's, SDXL's, FLUX.1's, FLUX.2's.

``vae-ft-mse-840000-ema-pruned.safetensors``, ``sdxl_vae.safetensors``, ``ae.safetensors``, or a whole checkpoint with the autoencoder under
``first_stage_model.``. The shapes give the architecture, but not scale and shift: Stable Diffusion's and SDXL's have equal shapes.
"""

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ditscale.errors import UserError, first_line

PREFIXES = ("first_stage_model.", "vae.", "")
MARK = "encoder.down.0.block.0.conv1.weight"                                   # in such a file, after the prefix
GROUPS = 32                                                                    # of its group norms, in all of latent-diffusion's
RENAMED = (                                                                    # (latent-diffusion's, diffusers'), in order
    (r"^encoder\.quant_conv", "quant_conv"), (r"^decoder\.post_quant_conv", "post_quant_conv"),
    (r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."), (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."), (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"coder\.norm_out\.", "coder.conv_norm_out."), (r"\.nin_shortcut\.", ".conv_shortcut."))
UP = re.compile(r"^decoder\.up\.(\d+)\.(block|upsample)\.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, for a whole checkpoint only the autoencoder's, without their prefix.

    Raises:
        UserError: it is not such a file.
    """
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            prefix = next((one for one in PREFIXES if one + MARK in names), "")
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}
    except (SafetensorError, OSError) as error:
        raise UserError(f"--vae {path}: not a complete safetensors file: {first_line(error)}") from None


def is_ldm(tensors: dict[str, Tensor]) -> bool:
    return MARK in tensors


def ldm_config(tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """The config of diffusers' class for these tensors, by their shapes; without scale and shift.

    Raises:
        UserError: diffusers' class cannot be such an autoencoder.
    """
    try:
        blocks = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.down."))
        layers = 1 + max(int(name.split(".")[4]) for name in tensors if name.startswith("encoder.down.0.block."))
        widths, up_widths = ([tensors[f"{side}.{number}.block.0.conv2.weight"].shape[0] for number in range(blocks)]
                             for side in ("encoder.down", "decoder.up"))
        is_flux2 = "bn.running_var" in tensors
        if any(".attn." in name for name in tensors):
            raise UserError(f"--vae {path}: has attention in its down or up blocks, which is not read; a folder with config.json and "
                            "diffusion_pytorch_model.safetensors would work")
        return {
            "_class_name": "AutoencoderKLFlux2" if is_flux2 else "AutoencoderKL",
            "in_channels": tensors["encoder.conv_in.weight"].shape[1], "out_channels": tensors["decoder.conv_out.weight"].shape[0],
            "down_block_types": ["DownEncoderBlock2D"] * blocks, "up_block_types": ["UpDecoderBlock2D"] * blocks,
            "block_out_channels": widths, "layers_per_block": layers, "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
            "norm_num_groups": GROUPS, "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in tensors,
            "use_quant_conv": bool({"quant_conv.weight", "encoder.quant_conv.weight"} & tensors.keys()),
            "use_post_quant_conv": bool({"post_quant_conv.weight", "decoder.post_quant_conv.weight"} & tensors.keys()),
            **({"decoder_block_out_channels": up_widths} if is_flux2 and up_widths != widths else {})}
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--vae {path}: no whole autoencoder: {first_line(error)} is missing") from None


def ldm_renamed(tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The same tensors under diffusers' names; its attention has matrices instead of 1 x 1 convolutions."""
    last, found = len(config["block_out_channels"]) - 1, {}
    for name, value in tensors.items():
        new = UP.sub(lambda match: f"decoder.up_blocks.{last - int(match[1])}.{'resnets' if match[2] == 'block' else 'upsamplers.0'}.", name)
        for old, ours in RENAMED:
            new = re.sub(old, ours, new)
        is_matrix = ".attentions.0." in new and value.dim() == 4
        found[new] = value[:, :, 0, 0] if is_matrix else value
    return found
