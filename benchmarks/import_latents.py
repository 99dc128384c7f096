"""Images a second of ``ditscale data import`` against reading the same latents alone, and the peak of its memory.

    python benchmarks/import_latents.py [--images 50000] [--forms edm2 fast-dit lightningdit numpy] [--rounds 3]

Made-up latents of 4 x 32 x 32, fp32, in each form. Reading alone is one process that takes each image in turn as the tool's own data
set does (an .npz or .npy of many: a mebibyte at a time), the labels too, and throws it away; it converts, hashes and writes nothing.
Both sides are fresh processes on files that the kernel has in memory, and take turns; the seconds are the best round's. The last line is one JSON object.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
import zipfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tiny import parse

SHAPE, SHARD = (4, 32, 32), 10_000
STATED = {"holds": "samples", "scale": 0.18215, "shift": 0.0, "applied": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parse(parser, images=40, rounds=1)
    load_before, found = os.getloadavg()[0], {}
    for form in options.forms:
        with tempfile.TemporaryDirectory() as folder:
            source = FORMS[form][0](Path(folder), options.images)
            rounds = [(in_a_process(read_alone, form, source), in_a_process(imported, form, source)) for _ in range(options.rounds)]
        found[form] = {}
        for clock in ("seconds", "processor_seconds"):
            alone, whole = (min(side[clock] for side in sides) for sides in zip(*rounds))
            ratios = [one[clock] / other[clock] for one, other in rounds]
            found[form][clock] = {"alone": round(alone, 2), "import": round(whole, 2), "import_against_alone": round(alone / whole, 3),
                                  "by_round": [round(ratio, 3) for ratio in ratios], "median_of_rounds": round(statistics.median(ratios), 3)}
        found[form] |= {
            "import_images_per_second": round(options.images / max(found[form]["seconds"]["import"], 0.01)),
            "peak_gib": round(max(other["peak_gib"] for _, other in rounds), 3)}
        print(form, found[form], flush=True)
    print(json.dumps({"benchmark": "import_latents", "tiny": options.tiny, "images": options.images, "shape": SHAPE,
                      "rounds": options.rounds, "cores": os.cpu_count(), "load_average_before": round(load_before, 2), "forms": found}))


def in_a_process(work, form: str, source: Path) -> dict:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (form, source))


def imported(form: str, source: Path) -> dict:
    from ditscale.data.importing import import_latents

    out = source.with_name("out.beton")
    options = STATED if form == "numpy" else {"format": form}
    seconds = timed(lambda: import_latents(source, out, say=lambda line: None, **options))
    for path in (out, out.with_suffix(".json")):
        path.unlink()
    return seconds | {"peak_gib": peak_gib()}


def read_alone(form: str, source: Path) -> dict:
    import safetensors.torch  # noqa: F401                                      # not part of reading

    return timed(lambda: FORMS[form][1](source))


def peak_gib() -> float:
    """Of this process alone: getrusage's number is no less than what the parent had."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def timed(work) -> dict:
    """On the clock, and of processors (all threads): the second is what a machine shared with others leaves comparable."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - busy}


def rows(images: int, *shape: int):
    """Numbers of each image; the same few hundred again, moved by a little, as random numbers take longer than reading."""
    some = np.random.default_rng(0).normal(size=(251, *shape)).astype(np.float32)
    for number in range(images):
        row = some[number % 251].copy()
        row.reshape(-1)[0] = number
        yield row


def make_edm2(folder: Path, images: int) -> Path:
    labels = []
    with zipfile.ZipFile(folder / "img.zip", "w") as archive:
        for number, row in enumerate(rows(images, 2 * SHAPE[0], *SHAPE[1:])):
            labels.append([f"{number // 1000:05d}/img-mean-std-{number:08d}.npy", number % 5])
            archive.writestr(labels[-1][0], npy(row))
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return folder / "img.zip"


def read_edm2(path: Path) -> None:
    archive = zipfile.ZipFile(path)
    names = sorted(name for name in archive.namelist() if name.endswith(".npy"))
    labels = dict(json.loads(archive.read("dataset.json"))["labels"])
    for name in names:
        with archive.open(name) as file:
            np.load(file), labels[name]


def make_fast_dit(folder: Path, images: int) -> Path:
    source = folder / "fast_dit"
    for name in ("imagenet256_features", "imagenet256_labels"):
        (source / name).mkdir(parents=True)
    for number, row in enumerate(rows(images, 1, *SHAPE)):
        (source / "imagenet256_features" / f"{number}.npy").write_bytes(npy(row))
        (source / "imagenet256_labels" / f"{number}.npy").write_bytes(npy(np.array([number % 5])))
    return source


def read_fast_dit(path: Path) -> None:
    features, labels = (sorted(os.listdir(path / name)) for name in ("imagenet256_features", "imagenet256_labels"))
    for one, other in zip(features, labels):
        np.load(path / "imagenet256_features" / one), np.load(path / "imagenet256_labels" / other)


def make_lightningdit(folder: Path, images: int) -> Path:
    import torch
    from safetensors.torch import save_file

    source = folder / "lightningdit"
    source.mkdir()
    for shard, first in enumerate(range(0, images, SHARD)):
        count = min(SHARD, images - first)
        latents = torch.from_numpy(np.stack(list(rows(count, *SHAPE))))
        save_file({"latents": latents, "latents_flip": latents.flip(-1).contiguous(), "labels": torch.arange(count) % 5},
                  source / f"latents_rank00_shard{shard:03d}.safetensors")
    torch.save({"mean": torch.zeros(1, SHAPE[0], 1, 1), "std": torch.ones(1, SHAPE[0], 1, 1)}, source / "latents_stats.pt")
    return source


def read_lightningdit(path: Path) -> None:
    """Both the latent and its flip of each image, which an import takes."""
    from safetensors import safe_open

    for shard in sorted(path.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            count = file.get_slice("labels").get_shape()[0]
        for row in range(count):
            with safe_open(shard, "pt") as file:
                for name in ("latents", "latents_flip", "labels"):
                    file.get_slice(name)[row:row + 1].clone()


def make_numpy(folder: Path, images: int) -> Path:
    source = folder / "shards"
    source.mkdir()
    for shard, first in enumerate(range(0, images, SHARD)):
        np.save(source / f"{shard:03d}.npy", np.stack(list(rows(min(SHARD, images - first), *SHAPE))))
    np.save(source / "labels.npy", np.arange(images) % 5)
    return source


def read_numpy(path: Path) -> None:
    for shard in sorted(path.glob("[0-9]*.npy")):
        array = np.load(shard, mmap_mode="r")
        for first in range(0, len(array), 64):
            array[first:first + 64].copy()
    np.load(path / "labels.npy")


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


FORMS = {"edm2": (make_edm2, read_edm2), "fast-dit": (make_fast_dit, read_fast_dit), "lightningdit": (make_lightningdit, read_lightningdit),
         "numpy": (make_numpy, read_numpy)}


if __name__ == "__main__":
    main()
