"""What a pass over images costs beyond the feature network: reading, checks, float64 moments.

    python benchmarks/features.py [--images 8192] [--rounds 5] [--dimensions 64]

ResNet-20's layers with random weights, widened to --dimensions features by one product, on noise of 3 x 32 x 32 in an ADM .npz. The
network alone runs on the same batches from memory; both take turns, and the median of the rounds' ratios is the result. The last
line is one JSON object.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tiny import parse

from ditscale.evaluation.extractors import Extractor, Features
from ditscale.evaluation.extractors.resnet20_cifar10 import ResNet20
from ditscale.evaluation.images import open_images
from ditscale.evaluation.reference import reference_of


class Widened(torch.nn.Module):
    """ResNet-20's pooled features, multiplied out to ``dimensions``."""

    def __init__(self, dimensions: int):
        super().__init__()
        self.network, self.wider = ResNet20().eval(), torch.nn.Linear(64, dimensions)

    def forward(self, images):
        return Features(self.wider(self.network(images).pooled))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dimensions", type=int, default=64)
    options = parse(parser, images=128, rounds=1)
    torch.manual_seed(0)
    extractor = Extractor("resnet20", Widened(options.dimensions), "0" * 64, options.dimensions, "none", channels=(3,), side=32)
    images = np.random.default_rng(0).integers(0, 256, (options.images, 32, 32, 3), dtype=np.uint8)
    batches = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).split(extractor.batch)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "images.npz", arr_0=images)
        for _ in range(options.rounds + 1):                                    # the first warms up
            alone = timed(lambda: [extractor(batch) for batch in batches])
            whole = timed(lambda: reference_of(open_images(Path(folder) / "images.npz"), extractor))
            rounds.append({"network_seconds": alone, "pass_seconds": whole, "ratio": whole / alone})
            print(rounds[-1], flush=True)
    print(json.dumps({"benchmark": "features", "tiny": options.tiny, "images": options.images, "dimensions": options.dimensions,
                      "threads": torch.get_num_threads(), "load_average": round(os.getloadavg()[0], 2), "torch": torch.__version__,
                      "ratio": statistics.median(each["ratio"] for each in rounds[1:]), "rounds": rounds[1:]}))


def timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
