"""ResNet-20 for CIFAR-10 (He et al. 2016, section 4.2), trained to 91.7 %: a score for 32-pixel color images, offline.

Its weights are ``resnet20-12fca82f.th`` of akamaster/pytorch_resnet_cifar10. They are identified by their hash, so another training
of the same network gives another passport.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditscale.digest import file_sha256
from ditscale.evaluation.extractors import Extractor, Features, normalized
from ditscale.evaluation.extractors.pretrained import fill, read_state, required

HINT = "fetch https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/resnet20-12fca82f.th"


def make_resnet20(weights_path, device="cpu") -> Extractor:
    """Pooled 64, logits 10.

    Raises:
        UserError: the weights are missing or for another network.
    """
    path = required("resnet20_cifar10", weights_path, HINT)
    state = {name.removeprefix("module."): value for name, value in read_state(path).items()}
    network = fill("ResNet-20", ResNet20(), state, path)
    return Extractor("resnet20_cifar10", network.to(device), file_sha256(path), 64, "none", torch.device(device),
                     channels=(3,), side=32, batch=256)


class ResNet20(nn.Module):
    """uint8 images (B, 3, 32, 32) to ``Features``."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Features:
        x = F.relu(self.bn1(self.conv1(normalized(images.float() / 255))))
        pooled = self.layer3(self.layer2(self.layer1(x))).mean((2, 3))
        return Features(pooled, logits=self.linear(pooled))


class Block(nn.Module):
    """Two convolutions around a shortcut without weights: every second pixel, new channels zero (the paper's option A)."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.stride, self.added = channels // channels_in, channels - channels_in
        self.conv1 = nn.Conv2d(channels_in, channels, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)
