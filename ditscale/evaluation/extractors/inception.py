"""The Inception network of FID, from torch-fidelity: the graph of 2015-12-05, with TensorFlow 1's resize.

torchvision's InceptionV3 is a different network (pooling, outputs, weights) and gives other numbers.
"""

import torch
from torch import Tensor, nn

from ditscale.digest import file_sha256
from ditscale.errors import UserError
from ditscale.evaluation.extractors import Extractor, Features, as_rgb
from ditscale.evaluation.extractors.pretrained import required

WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_URL = ("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
               "weights-inception-2015-12-05-6726825d.pth")
SPATIAL_CHANNELS = 7                                                           # 17 x 17 x 7 = 2023 features, as in sFID


def make_inception(weights_path, device="cpu", *, expected_sha256: str = WEIGHTS_SHA256) -> Extractor:
    """Pooled 2048, spatial 2023, logits 1008 without bias, as in ADM's evaluator.

    ``expected_sha256`` is for tests with artificial weights: with other weights a score must not be called FID.

    Raises:
        UserError: torch-fidelity or the weights are missing, or the weights are others.
    """
    path = required("inception", weights_path, f"fetch {WEIGHTS_URL}")
    found = file_sha256(path)
    if found != expected_sha256:
        raise UserError(f"{path}: has sha256 {found}, not {expected_sha256}; only the weights from "
                        f"{WEIGHTS_URL} give a score that may be called FID")
    return Extractor("inception", Inception(path).to(device), found, 2048, "TensorFlow 1 bilinear 299", torch.device(device))


class Inception(nn.Module):
    """uint8 images (B, 1 or 3, H, W) to ``Features``."""

    def __init__(self, weights_path):
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise UserError("inception needs torch-fidelity: pip install 'ditscale[inception]'") from None
        self.network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(weights_path))
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def forward(self, images: Tensor) -> Features:
        pooled, logits = self.network(as_rgb(images))
        return Features(pooled, self._spatial, logits)

    def _keep_spatial(self, _, __, output: Tensor) -> None:
        """The first channels in TensorFlow's order of axes, (B, 17, 17, 7), to match the order of published statistics."""
        self._spatial = output.permute(0, 2, 3, 1)[..., :SPATIAL_CHANNELS].flatten(1).float()
