"""fast-DiT's ``extract_features.py``: one numbered .npy per image and one per label.

::

    imagenet256_features/N.npy    fp32 (1, 4, 32, 32): one sample times 0.18215, of an image that was mirrored at random
    imagenet256_labels/N.npy      int64 (1,)

Both folders are sorted as text ("10.npy" before "2.npy"), as its training does. On several GPUs each rank of that script counts from
0, so ranks overwrite each other's files: only one of several images is left, and a latent may have another rank's label.
"""

import re
from pathlib import Path

import numpy as np
import torch

from ditscale.data.latent_sources.base import STABLE_DIFFUSION, Facts, LatentRequest, LatentSource, class_labels, shown
from ditscale.data.latent_sources.files import FolderFiles, NpyHeader, float_array, stacked
from ditscale.data.progress import Progress
from ditscale.errors import UserError

FEATURES, LABELS = "_features", "_labels"                                      # suffixes of the two folders' names
FACTS = Facts("fast-dit", "sample", "random", STABLE_DIFFUSION, 0.0, True, (-1.0, 1.0),
              "stabilityai/sd-vae-ft-ema unless --vae mse was given")
IMAGENET, MOST_GPUS = 1_281_167, 64
NUMBER = re.compile(r"(0|[1-9][0-9]*)\.npy")


def could_be(path: Path) -> bool:
    return path.is_dir() and any(entry.name.endswith(FEATURES) and entry.is_dir() for entry in path.iterdir())


def open_fast_dit(request: LatentRequest) -> LatentSource:
    request.without("holds", "scale", "shift", "applied", "pixel_range", "key")
    request.without_labels()
    features, folder = _folders(request)
    labels = FolderFiles(folder)
    _check_names(request, features, labels)
    first = float_array(NpyHeader(), features, 0)
    if first.ndim != 4 or first.shape[0] != 1:
        raise UserError(f"{features.where(0)}: holds {shown(first.dtype, first.shape)}; the format fast-dit has one sample, as "
                        "1 x 4 x 32 x 32")

    def batches(start):
        for batch in stacked(features, start):
            yield torch.from_numpy(batch)[:, None]

    values = None if request.unlabeled else _labels(labels)
    numbers, names = class_labels(request, folder, values, len(features.names))
    return LatentSource(f"fast-dit folder {request.path.resolve().name}", FACTS, first.shape[1:], numbers, names, features.where, batches,
                        ["one random flip is in the latents and no other can be had: leave data.flip out"],
                        lambda sums: _check_duplicates(features, sums))


def _folders(request: LatentRequest) -> tuple[FolderFiles, Path]:
    found = {end: sorted(entry for entry in request.path.iterdir() if entry.is_dir() and entry.name.endswith(end))
             for end in (FEATURES, LABELS)}
    pairs = [(one, one.with_name(one.name.removesuffix(FEATURES) + LABELS)) for one in found[FEATURES]]
    if len(pairs) != 1 or pairs[0][1] not in found[LABELS]:
        there = ", ".join(entry.name for entry in sorted(found[FEATURES] + found[LABELS])) or "neither"
        raise UserError(f"{request.path}: needs one folder NAME{FEATURES} and NAME{LABELS} next to it; it has {there}")
    return FolderFiles(pairs[0][0]), pairs[0][1]


def _check_names(request: LatentRequest, features: FolderFiles, labels: FolderFiles) -> None:
    """Raises UserError unless both are 0.npy, 1.npy, ... for the expected number of images."""
    for files in (features, labels):
        if odd := next((name for name in files.names if not NUMBER.fullmatch(name)), None):
            raise UserError(f"{files.folder}/{odd}: the format fast-dit has 0.npy, 1.npy, ... alone; move it away")
    count = len(features.names)
    if features.names != labels.names:
        lost = min(set(features.names) ^ set(labels.names), key=lambda name: int(name[:-4]))
        missing = labels if lost in features.names else features
        raise UserError(f"{request.path}: {count:,} features but {len(labels.names):,} labels; {missing.folder / lost} is missing")
    if not count:
        raise UserError(f"{features.folder}: is empty")
    last = max(int(name[:-4]) for name in features.names)
    if last != count - 1:
        present = set(features.names)
        gap = next(number for number in range(count) if f"{number}.npy" not in present)
        raise UserError(f"{features.folder}: holds {count:,} file{'s' * (count != 1)}, but the last is {last}.npy; {gap}.npy is missing")
    gpus = next((gpus for gpus in range(2, MOST_GPUS + 1) if count == -(-IMAGENET // gpus)), None)
    if gpus and request.count != count:
        raise UserError(f"{features.folder}: holds {count:,} files, which is ImageNet's {IMAGENET:,} / {gpus}: made on {gpus} GPUs, whose "
                        "ranks overwrote each other's numbers, so that labels may be of other images; extract them again on one "
                        f"(--count {count} accepts them)")


def _labels(files: FolderFiles) -> np.ndarray:
    header, values = NpyHeader(), np.empty(len(files.names), np.int64)
    with Progress("labels", len(values)) as progress:
        for number in range(len(values)):
            label = header.array(files.read(number), files.where(number))
            if label.shape not in ((1,), ()) or label.dtype.kind not in "iu":
                raise UserError(f"{files.where(number)}: holds {shown(label.dtype, label.shape)}; one integer is needed")
            values[number] = label.item()
            progress.advance(1)
    return values


def _check_duplicates(files: FolderFiles, sums: np.ndarray) -> None:
    """Raises UserError if two files hold the same bytes: samples are random, so one of them is a copy."""
    order = np.argsort(sums, kind="stable")
    for one, other in zip(order[:-1][np.diff(sums[order]) == 0], order[1:][np.diff(sums[order]) == 0]):
        if files.read(one) == files.read(other):
            raise UserError(f"{files.where(other)}: is a copy of {files.names[one]}; a latent is there once, so one of the two has "
                            "another image's number")
