"""EDM2's ``dataset_tool.py encode``, and REPA's version of it: one .npy per image, fp32 (2c, h, w), the mean and then the std.

::

    00000/img-mean-std-00000000.npy      in a zip or a folder; EDM2's take pixels in [0, 1], REPA's in [-1, 1]
    dataset.json                         {"labels": [["00000/img-mean-std-00000000.npy", 5], ...]}
    images/, vae-sd/                     REPA: the latents are in vae-sd/

The two kinds of files look the same, and decoding one as the other gives wrong colors.
"""

from pathlib import Path

import torch

from ditscale.data.latent_sources.base import STABLE_DIFFUSION, Facts, LatentRequest, LatentSource, class_labels, latent_channels, shown
from ditscale.data.latent_sources.files import Files, FolderFiles, NpyHeader, ZipFiles, float_array, stacked
from ditscale.data.sources.arrange import LABELS_NAME, SUFFIXES
from ditscale.data.sources.labelfiles import parse_labels, read_labels
from ditscale.errors import UserError, count

MADE_BY = "stabilityai/sd-vae-ft-mse unless --model-url named another"
RAW_MEAN, RAW_STD, FINAL_STD = [5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28], 0.5    # EDM2's training/encoders.py
EDM2 = Facts("edm2", "moments", "none", [FINAL_STD / std for std in RAW_STD], RAW_MEAN, False, (0.0, 1.0), MADE_BY)
REPA = Facts("repa", "moments", "none", STABLE_DIFFUSION, 0.0, False, (-1.0, 1.0), MADE_BY)
FOLDER = "vae-sd"                                                              # REPA's
PREFIX = "img-mean-std-"


def could_be_edm2(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() == ".zip"
    return path.name != FOLDER and any(path.glob(f"*/{PREFIX}*.npy"))


def could_be_repa(path: Path) -> bool:
    return (path / FOLDER).is_dir() or path.name == FOLDER or could_be_edm2(path)


def open_edm2(request: LatentRequest) -> LatentSource:
    return _open(request, request.path, EDM2)


def open_repa(request: LatentRequest) -> LatentSource:
    inside = request.path / FOLDER
    return _open(request, inside if inside.is_dir() else request.path, REPA)


def _open(request: LatentRequest, path: Path, facts: Facts) -> LatentSource:
    request.without("holds", "scale", "shift", "applied", "pixel_range", "key")
    files: Files = FolderFiles(path) if path.is_dir() else ZipFiles(path)
    names = [name for name in files.names if name.endswith(".npy")]
    others = len(files.names) - len(names) - (LABELS_NAME in files.names)
    if image := next((name for name in files.names if name.lower().endswith(SUFFIXES)), None):
        raise UserError(f"{path}: holds the image {image} next to latents; import a folder or archive that holds only latents")
    if not names:
        raise UserError(f"{path}: no .npy in it; the format {facts.format} has a file an image, 00000/{PREFIX}00000000.npy")
    labels = _labels(request, path, files, names)
    files.only(names)
    first = float_array(NpyHeader(), files, 0)
    if first.ndim != 3:
        raise UserError(f"{files.where(0)}: holds {shown(first.dtype, first.shape)}; the format {facts.format} has the mean and the std "
                        "of one image, as 8 x 32 x 32")
    channels = latent_channels(files.where(0), "moments", first.shape[0])
    if isinstance(facts.scale, list) and channels != len(facts.scale):
        raise UserError(f"{files.where(0)}: latents of {channels} channels; {facts.format} is for the {len(facts.scale)} of Stable "
                        "Diffusion's; pack them as NumPy arrays and import these")

    def batches(start):
        for batch in stacked(files, start):
            yield torch.from_numpy(batch).unflatten(1, (2, channels))[:, None]

    notes = [f"Skipped {others:,} files that are not latents" if others > 1 else "Skipped 1 file that is not a latent"] if others > 0 else []
    kind = "folder" if path.is_dir() else "zip archive"
    numbers, class_names = class_labels(request, path, labels, len(names))
    return LatentSource(f"{facts.format} {kind} {path.name}", facts, (channels, *first.shape[1:]), numbers, class_names, files.where,
                        batches, notes)


def _labels(request: LatentRequest, path: Path, files: Files, names: list[str]):
    """One label per name; None if there are none. Raises UserError for a name without a label."""
    if request.unlabeled:
        return None
    where = f"{path}: {LABELS_NAME}"
    if request.labels:
        where, table = str(request.labels), read_labels(request.labels)
    elif LABELS_NAME in files.names:
        table = parse_labels(where, files.read(files.names.index(LABELS_NAME)))
    else:
        table = None
    if table is None:
        return None
    if lost := [name for name in names if name not in table]:
        raise UserError(f"{where}: has no label for {len(lost):,} of {len(names):,} latents, for example {lost[0]}")
    if len(table) > len(names):
        there = set(names)
        extra = next(name for name in table if name not in there)
        raise UserError(f"{where}: has labels for {count(len(table), 'latent')}, but {len(names):,} are there; {extra} is not")
    return [table[name] for name in names]
