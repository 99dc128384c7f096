"""Images a second of ``ditscale data import`` against reading the same latents alone, and the peak of its memory.

    python benchmarks/import_latents.py [--images 50000] [--forms edm2 fast-dit lightningdit numpy safetensors mds] [--rounds 3] [--from disk memory]

Made-up latents of 4 x 32 x 32, fp32, in each form. Reading alone is one process that takes each image in turn as the tool's own data
set does (.npy and safetensors of many: a mebibyte at a time), the labels too, and throws it away; it converts, hashes and writes nothing.
Both sides are fresh processes and take turns; the seconds are the best round's. "disk": the kernel is told to forget the files before
each (ImageNet's latents, 20 to 80 GB, are never all in memory); "memory": it has them. The last line is one JSON object.
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
    parser.add_argument("--from", dest="places", nargs="+", default=["disk", "memory"], choices=["disk", "memory"])
    options = parse(parser, images=40, rounds=1)
    load_before, found = os.getloadavg()[0], {}
    for form in options.forms:
        with tempfile.TemporaryDirectory() as folder:
            source = FORMS[form][0](Path(folder), options.images)
            found[form] = {place: compared(form, source, place, options.rounds) for place in options.places}
        for numbers in found[form].values():
            numbers["import_images_per_second"] = round(options.images / max(numbers["seconds"]["import"], 0.01))
        print(form, found[form], flush=True)
    print(json.dumps({"benchmark": "import_latents", "tiny": options.tiny, "images": options.images, "shape": SHAPE,
                      "rounds": options.rounds, "cores": os.cpu_count(), "load_average_before": round(load_before, 2), "forms": found}))


def compared(form: str, source: Path, place: str, count: int) -> dict:
    sides: list[list[dict]] = [[], []]
    for _ in range(count):
        for side, work in zip(sides, (read_alone, imported)):
            (forget if place == "disk" else remember)(source)
            side.append(in_a_process(work, form, source))
    found: dict = {}
    for clock in ("seconds", "processor_seconds"):
        ratios = [alone[clock] / whole[clock] for alone, whole in zip(*sides)]
        alone, whole = (min(one[clock] for one in side) for side in sides)
        found[clock] = {"alone": round(alone, 2), "import": round(whole, 2), "import_against_alone": round(alone / whole, 3),
                        "by_round": [round(ratio, 3) for ratio in ratios], "median_of_rounds": round(statistics.median(ratios), 3)}
    return found | {"peak_gib": round(max(one["peak_gib"] for one in sides[1]), 3)}


def files_of(source: Path) -> list[Path]:
    return [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]


def forget(source: Path) -> None:
    """Out of the kernel's memory: what is written goes to the disk first, as it keeps pages that are not there yet."""
    os.sync()
    for path in files_of(source):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def remember(source: Path) -> None:
    for path in files_of(source):
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass


def in_a_process(work, form: str, source: Path) -> dict:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (form, source))


def imported(form: str, source: Path) -> dict:
    from ditscale.data.importing import import_latents

    out = source.with_name("out.beton")
    options = {"format": form} | (STATED if form in ("numpy", "safetensors", "mds") else {})
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


def make_safetensors(folder: Path, images: int) -> Path:
    import torch
    from safetensors.torch import save_file

    source = folder / "tensors"
    source.mkdir()
    for shard, first in enumerate(range(0, images, SHARD)):
        count = min(SHARD, images - first)
        save_file({"latents": torch.from_numpy(np.stack(list(rows(count, *SHAPE)))), "labels": torch.arange(count) % 5}, source / f"{shard:03d}.safetensors")
    return source


def read_safetensors(path: Path) -> None:
    from safetensors import safe_open

    for shard in sorted(path.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            part = file.get_slice("latents")
            for first in range(0, part.get_shape()[0], 64):
                part[first:first + 64].clone()
            file.get_tensor("labels").clone()


def make_mds(folder: Path, images: int) -> Path:
    """Shards of at most 4,000, near the 64 MiB of the writer's default; a column of latents of fixed shape and one of labels."""
    source = folder / "mds"
    source.mkdir()
    encodings, sizes, shards = ["int", f"ndarray:float32:{','.join(map(str, SHAPE))}"], [8, 4 * int(np.prod(SHAPE))], []
    told = json.dumps({"column_names": ["label", "x"], "column_encodings": encodings, "column_sizes": sizes}).encode()
    values = rows(images, *SHAPE)
    for first in range(0, images, 4000):
        count, name = min(4000, images - first), f"shard.{len(shards):05d}.mds"
        starts = 4 * (count + 2) + len(told) + sum(sizes) * np.arange(count + 1)
        with open(source / name, "wb") as file:
            file.write(np.array([count, *starts], np.uint32).tobytes() + told)
            for number in range(first, first + count):
                file.write(np.int64(number % 5).tobytes() + next(values).tobytes())
            size = file.tell()
        shards.append({"format": "mds", "version": 2, "column_names": ["label", "x"], "column_encodings": encodings, "column_sizes": sizes,
                       "compression": None, "hashes": [], "samples": count, "size_limit": 1 << 26, "zip_data": None,
                       "raw_data": {"basename": name, "bytes": size, "hashes": {}}})
    (source / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    return source


def read_mds(path: Path) -> None:
    """A sample at a time, as MosaicML's reader takes it: open, where it begins and ends, its bytes."""
    for entry in json.loads((path / "index.json").read_text())["shards"]:
        for number in range(entry["samples"]):
            with open(path / entry["raw_data"]["basename"], "rb", 0) as file:
                file.seek(4 * (1 + number))
                start, end = np.frombuffer(file.read(8), np.uint32).tolist()
                file.seek(start)
                content = file.read(end - start)
            np.frombuffer(content[:8], np.int64), np.frombuffer(content[8:], np.float32).reshape(SHAPE)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


FORMS = {"edm2": (make_edm2, read_edm2), "fast-dit": (make_fast_dit, read_fast_dit), "lightningdit": (make_lightningdit, read_lightningdit),
         "numpy": (make_numpy, read_numpy), "safetensors": (make_safetensors, read_safetensors), "mds": (make_mds, read_mds)}


if __name__ == "__main__":
    main()
