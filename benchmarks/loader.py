"""Loading latents on one core: ours through FFCV, a bare FFCV loader, one .npy file an image, and our memory map. All warm.

    python benchmarks/loader.py [--samples 8192] [--rounds 7]

Ours reads, of 32 x 32 x 4 latents stored with both flips (32 KiB), the moments of the flip that it draws (16 KiB), in batches of
256. The others read the same number of bytes from files that hold one flip only. Every loader goes in random order, and the
process is held on one core. The loaders take turns, a pass each a round; the first round only warms up. Ratios are within a round,
and their median is the result. The last line is one JSON object.
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

from ditscale.data.beton import write_beton
from ditscale.data.ffcv_import import load_ffcv
from ditscale.data.loader import StreamLoader
from ditscale.data.prepare import Latents

LATENT, BATCH = (4, 32, 32), 256
GOALS = {"bare_ffcv": "at least 0.75", "npy_files": "at least 20"}             # images/s of ours over theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    options = parse(parser, samples=512, rounds=1)
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
        "benchmark": "loader", "tiny": options.tiny, "torch": torch.__version__, "cores": 1,
        "bytes_read_an_image": 2 * 2 * int(np.prod(LATENT)), "batch": BATCH,
        "samples": options.samples, "load_average_before": round(load_before, 2), "goals": GOALS,
        "images_per_second": {name: round(statistics.median(each[name] for each in measured)) for name in loaders},
        "ours_over": {name: round(statistics.median(each["ours"] / each[name] for each in measured), 3)
                      for name in loaders if name != "ours"},
        "rounds": [{name: round(speed) for name, speed in each.items()} for each in measured]}))


def write(folder: Path, samples: int) -> None:
    """Both flips as one .beton; the image's own moments as another, and as one .npy file an image."""
    moments = np.random.default_rng(0).integers(-2**15, 2**15, (samples, 2, 2, *LATENT)).astype(np.int16)
    write_beton(folder / "latents.beton", {"moments": moments, "label": np.arange(samples)})
    write_beton(folder / "one_flip.beton", {"moments": moments[:, 0], "label": np.arange(samples)})
    for number, record in enumerate(moments[:, 0]):
        np.save(folder / f"{number:06d}.npy", record)


def open_all(folder: Path, samples: int) -> dict:
    """By name, a callable that makes an iterator over one pass of batches."""
    ffcv_backend, reason = load_ffcv()
    if ffcv_backend is None:
        raise SystemExit(f"this benchmark needs FFCV: {reason}")
    order = np.random.default_rng(1).permutation(samples)
    pick = Latents(LATENT, bits="fp16", scale=0.18215, shift=0.0, drawn=True, flip=True).pick
    ours, mmap = (StreamLoader(folder / "latents.beton", seed=0, global_batch=BATCH, micro_batch=BATCH, end_images=samples,
                              backend=backend, pick=pick) for backend in ("ffcv", "mmap"))
    from ffcv.loader import Loader

    bare = Loader(str(folder / "one_flip.beton"), BATCH, num_workers=1, os_cache=True)     # decoded by FFCV's defaults
    files = torch.utils.data.DataLoader(Files(folder, samples), batch_size=BATCH, sampler=order.tolist())
    # A forked worker would leave numba's thread pool waiting at the end of this process. Started once, it costs nothing a pass.
    worker = torch.utils.data.DataLoader(Files(folder, samples), batch_size=BATCH, sampler=order.tolist(), num_workers=1,
                                         multiprocessing_context="spawn", persistent_workers=True)
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
