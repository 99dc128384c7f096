"""The feature network of the digits demo: a small CNN, trained in seconds on the digits' training part.

It replaces FID's Inception. Its weights are determined by the data and a seed, and their hash is in every passport:
two scores can be compared only if the hashes agree. Scores are called ``fd_digits_cnn``, never FID.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from ditscale.data.beton import BetonFile
from ditscale.data.order import epoch_order
from ditscale.digest import file_sha256
from ditscale.evaluation.extractors import Extractor, Features
from ditscale.evaluation.extractors.pretrained import fill, read_state, required
from ditscale.rundir import write_atomically

EPOCHS, BATCH, SEED = 20, 64, 0


class DigitsCnn(nn.Module):
    """uint8 images (B, 1, 8, 8) to ``Features``."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
                                          nn.MaxPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Features:
        pooled = self.convolutions(images.float() / 255).flatten(1)
        return Features(pooled, logits=self.classifier(pooled))


def train_digits_cnn(train_path, heldout_path, weights_path) -> float:
    """Trains, writes the weights, and returns the held-out accuracy. Deterministic on one machine and torch version."""
    train, heldout = BetonFile(train_path), BetonFile(heldout_path)
    images, labels = (torch.from_numpy(train.read(name, np.arange(train.num_samples))) for name in ("image", "label"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                                                   # fixed order of sums, so the same weights every time
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            net = DigitsCnn()
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=EPOCHS * -(-len(images) // BATCH))
        for epoch in range(EPOCHS):
            for chosen in torch.from_numpy(epoch_order(len(images), SEED, epoch).copy()).split(BATCH):
                loss = F.cross_entropy(net(images[chosen]).logits, labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        with torch.inference_mode():
            guess = net(torch.from_numpy(heldout.read("image", np.arange(heldout.num_samples)))).logits.argmax(1)
    finally:
        torch.set_num_threads(threads)
    write_atomically(Path(weights_path), save({k: v.contiguous() for k, v in net.state_dict().items()}))
    return float((guess.numpy() == heldout.read("label", np.arange(heldout.num_samples))).mean())


def load_digits_cnn(weights_path) -> DigitsCnn:
    """The network with trained weights.

    Raises:
        UserError: the file is missing or is for another network.
    """
    path = required("digits_cnn", weights_path, "`ditscale data build digits` makes it")
    return fill("digits_cnn", DigitsCnn(), read_state(path), path)


def make_digits_cnn(weights_path, device="cpu") -> Extractor:
    """Pooled 64, logits 10. Raises UserError as ``load_digits_cnn``."""
    network = load_digits_cnn(weights_path)
    return Extractor("digits_cnn", network.to(device), file_sha256(weights_path), 64, "none", torch.device(device), channels=(1,),
                     batch=512)
