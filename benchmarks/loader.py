"""Loading latents on one core: ours through FFCV, a bare FFCV loader, one .npy file an image, and our memory map. All warm.

    python benchmarks/loader.py [--samples 8192] [--rounds 7]

Records are the moments of 32 x 32 x 4 latents, both flips stored (32 KiB), in batches of 256. Every loader gives the same bytes
in random order, and the process is held on one core. The loaders take turns, a pass each a round; the first round only warms up.
Ratios are within a round, and their median is the result. The last line is one JSON object.
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

from ditscale.data.beton import write_beton
from ditscale.data.ffcv_import import load_ffcv
from ditscale.data.loader import open_loader

SHAPE, BATCH = (2, 2, 4, 32, 32), 256
GOALS = {"bare_ffcv": "at least 0.75", "npy_files": "at least 20"}             # images/s of ours over theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.samples)
        loaders = open_all(Path(folder), options.samples)
        rounds = []
        for number in range(options.rounds + 1):
            rounds.append({name: images_per_second(one_pass, options.samples) for name, one_pass in loaders.items()})
            print(f"round {number}", {name: round(speed) for name, speed in rounds[-1].items()}, flush=True)
    measured = rounds[1:]
    print(json.dumps({
        "benchmark": "loader", "torch": torch.__version__, "cores": 1, "record_bytes": 2 * int(np.prod(SHAPE)), "batch": BATCH,
        "samples": options.samples, "load_average_before": round(load_before, 2), "goals": GOALS,
        "images_per_second": {name: round(statistics.median(each[name] for each in measured)) for name in loaders},
        "ours_over": {name: round(statistics.median(each["ours"] / each[name] for each in measured), 3)
                      for name in loaders if name != "ours"},
        "rounds": [{name: round(speed) for name, speed in each.items()} for each in measured]}))


def write(folder: Path, samples: int) -> None:
    """The same records as one .beton and as one .npy file an image."""
    moments = np.random.default_rng(0).integers(-2**15, 2**15, (samples, *SHAPE)).astype(np.int16)
    write_beton(folder / "latents.beton", {"moments": moments, "label": np.arange(samples)})
    for number, record in enumerate(moments):
        np.save(folder / f"{number:06d}.npy", record)


def open_all(folder: Path, samples: int) -> dict:
    """By name, a callable that makes an iterator over one pass of batches."""
    ffcv_backend, reason = load_ffcv()
    if ffcv_backend is None:
        raise SystemExit(f"this benchmark needs FFCV: {reason}")
    path, order = folder / "latents.beton", np.random.default_rng(1).permutation(samples)
    ours, mmap = (open_loader(path, seed=0, global_batch=BATCH, micro_batch=BATCH, end_images=samples, backend=backend)
                  for backend in ("ffcv", "mmap"))
    from ffcv.loader import Loader

    bare = Loader(str(path), BATCH, num_workers=1, os_cache=True)              # label and moments, decoded by FFCV's defaults
    files = torch.utils.data.DataLoader(Files(folder, samples), batch_size=BATCH, sampler=order.tolist())
    worker = torch.utils.data.DataLoader(Files(folder, samples), batch_size=BATCH, sampler=order.tolist(), num_workers=1)
    return {"ours": lambda: ours, "bare_ffcv": lambda: ffcv_backend.EpochIterator(bare, order), "npy_files": lambda: files,
            "npy_files_worker": lambda: worker, "our_mmap": lambda: mmap}


class Files(torch.utils.data.Dataset):
    """One .npy file an image."""

    def __init__(self, folder: Path, samples: int):
        self.folder, self.samples = folder, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int):
        return torch.from_numpy(np.load(self.folder / f"{index:06d}.npy")), index


def images_per_second(one_pass, samples: int) -> float:
    """Speed of one pass, in which each batch is touched as it comes."""
    started, seen = time.perf_counter(), 0
    for batch in one_pass():
        seen += len(batch[0])
        batch[0].view(len(batch[0]), -1)[:, 0].sum()                           # one number a record: the bytes are there
    assert seen == samples, seen
    return seen / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
