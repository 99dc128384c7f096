"""DINOv2 ViT-L/14 as used by EDM2 (Karras et al. 2024): bicubic to 224, ImageNet's mean and standard deviation, the class token.

Weights are Meta's ``dinov2_vitl14_pretrain.pth`` or timm's ``vit_large_patch14_dinov2.lvd142m`` as ``.safetensors``: the same
values, so both have the same hash here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditscale.evaluation.extractors import Extractor, Features, as_rgb, normalized
from ditscale.evaluation.extractors.pretrained import fill, read_state, required, state_sha256

ARCHITECTURE = "vit_large_patch14_dinov2.lvd142m"
WEIGHTS_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
SIDE, PATCH = 224, 14                                                          # pixels


def make_dinov2(weights_path, device="cpu", *, architecture: str = ARCHITECTURE) -> Extractor:
    """Pooled 1024. ``architecture`` is for tests with a small network.

    Raises:
        UserError: the weights are missing or for another network.
    """
    from timm import create_model
    from timm.models.vision_transformer import checkpoint_filter_fn

    path = required("dinov2", weights_path, f"fetch {WEIGHTS_URL}")
    state = read_state(path)
    if "pos_embed" in state:
        state["pos_embed"] = resampled_positions(state["pos_embed"], SIDE // PATCH)
    network = create_model(architecture, pretrained=False, img_size=SIDE, num_classes=0)
    fill("DINOv2 ViT-L/14", network, checkpoint_filter_fn(state, network), path)
    return Extractor("dinov2", Dinov2(network).to(device), state_sha256(network), network.num_features,
                     "bicubic 224 antialiased", torch.device(device))


class Dinov2(nn.Module):
    """uint8 images (B, 1 or 3, H, W) to ``Features``."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Features:
        images = F.interpolate(as_rgb(images).float(), (SIDE, SIDE), mode="bicubic", antialias=True) / 255
        return Features(self.network(normalized(images)))


def resampled_positions(positions: Tensor, cells: int) -> Tensor:
    """Position embeddings (1, 1 + S * S, D) for ``cells`` x ``cells`` patches, resampled as in Meta's forward: bicubic
    without antialiasing, by the factor ``(cells + 0.1) / S``. timm would antialias, which gives other features."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if side == cells:
        return positions
    grid = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(cells + 0.1) / side, mode="bicubic")
    return torch.cat([positions[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
