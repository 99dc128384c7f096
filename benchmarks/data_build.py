"""Images a second of a whole build of CIFAR-10 against decoding and cropping alone, both in two processes.

    python benchmarks/data_build.py ARCHIVE [--split train] [--rounds 3] [--workers 2]

ARCHIVE is a tar of class folders of 32-pixel images; --tiny makes one. A compressed one is unpacked first, as decompression is serial for all;
how long a build from the archive as it is takes is told too. Both sides read the same tar, start their own processes, and take
turns, so that a noisy machine disturbs both alike; the best of the rounds is compared. The last line is one JSON object.
"""

import argparse
import io
import json
import os
import statistics
import tarfile
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tiny import parse

from ditscale.data.build import build_images
from ditscale.data.decode import adm_crop
from ditscale.data.sources import open_source
from ditscale.data.sources.archive import RangesReader

SIZE, PIECE = 32, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, nargs="?")
    parser.add_argument("--split", default="train")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parse(parser, rounds=1)
    if not (options.archive or options.tiny):
        parser.error("give an ARCHIVE")
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options.archive = options.archive or made_archive(folder)
        plain = unpacked(options.archive, folder)
        seconds = {"list": [], "alone": [], "build": []}
        for _ in range(options.rounds):
            seconds["list"].append(timed(lambda: open_source(plain, split=options.split, scratch=folder)))
            source = open_source(plain, split=options.split, scratch=folder)
            seconds["alone"].append(timed(lambda: decode_alone(plain, source.places, options.workers)))
            seconds["build"].append(timed(lambda: build(plain, folder, options)))
            remove(folder)
            print({name: round(values[-1], 2) for name, values in seconds.items()}, flush=True)
        packed = timed(lambda: build(options.archive, folder, options))
    images, best = len(source.names), {name: min(values) for name, values in seconds.items()}
    ratios = [alone / whole for alone, whole in zip(seconds["alone"], seconds["build"])]
    print(json.dumps({
        "benchmark": "data_build", "tiny": options.tiny, "images": images, "size": SIZE, "workers": options.workers, "rounds": options.rounds,
        "load_average_before": round(load_before, 2),
        "alone_images_per_second": round(images / best["alone"]), "build_images_per_second": round(images / best["build"]),
        "list_seconds": round(best["list"], 2), "build_seconds_of_the_archive_as_it_is": round(packed, 2),
        "build_against_alone": round(best["alone"] / best["build"], 3), "by_round": [round(ratio, 3) for ratio in ratios],
        "median_of_rounds": round(statistics.median(ratios), 3)}))


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def made_archive(folder: Path, images: int = 20) -> Path:
    """A compressed tar of noise in two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, SIZE, SIZE, 3), dtype=np.uint8)
    with tarfile.open(folder / "made.tar.xz", "w:xz") as tar:
        for number, image in enumerate(pixels):
            data = io.BytesIO()
            Image.fromarray(image).save(data, "png")
            member = tarfile.TarInfo(f"train/class{number % 2}/{number:03d}.png")
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    return folder / "made.tar.xz"


def unpacked(archive: Path, folder: Path) -> Path:
    """The members of the archive in a plain tar."""
    with tarfile.open(archive) as source, tarfile.open(folder / "plain.tar", "w") as target:
        for member in source:
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    return folder / "plain.tar"


def decode_alone(path: Path, places: list, workers: int) -> None:
    """Read, decode and crop every image, and throw the pixels away."""
    pieces = [places[first:first + PIECE] for first in range(0, len(places), PIECE)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for _ in pool.map(decode_piece, [path] * len(pieces), pieces):
            pass


def decode_piece(path: Path, places: list) -> None:
    reader = RangesReader(path)
    for place in places:
        np.asarray(adm_crop(Image.open(io.BytesIO(reader.read(place))).convert("RGB"), SIZE))


def build(path: Path, folder: Path, options) -> None:
    build_images(path, folder / "out.beton", size=SIZE, split=options.split, workers=options.workers)


def remove(folder: Path) -> None:
    """What a build wrote, so that the next one starts from nothing."""
    for name in ("out.beton", "out.json"):
        (folder / name).unlink()


if __name__ == "__main__":
    main()
