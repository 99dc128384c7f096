"""NumPy arrays: an .npz with images and labels, or an .npy of images and another of labels."""

import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ditscale.data.sources.base import Request, Source, one_split, stamp
from ditscale.data.sources.classes import number_classes
from ditscale.errors import UserError

IMAGES, LABELS = ("images", "arr_0"), ("labels", "arr_1")                       # arr_0, arr_1: numpy's own, and ADM's batches
CHANNELS = (1, 3, 4)


class ArrayReader:
    """Rows of an .npy through a memory map, as (H, W) or (H, W, C)."""

    def __init__(self, path: Path, channels_first: bool):
        self._path, self._channels_first = path, channels_first
        self._array: np.ndarray | None = None

    def __getstate__(self):
        return {**self.__dict__, "_array": None}

    def read(self, place: int) -> np.ndarray:
        if self._array is None:
            self._array = np.load(self._path, mmap_mode="r")
        image = self._array[place]
        image = image.transpose(1, 2, 0) if self._channels_first else image
        return np.ascontiguousarray(image[..., 0] if image.shape[2:] == (1,) else image)


def open_npz(request: Request) -> Source:
    """See ``open_source``. Its images are unpacked, so they need not fit into memory."""
    path, scratch = request.path, request.scratch
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
            images = next((name for name in IMAGES if name in members), None)
            labels = next((name for name in LABELS if name in members), None)
            if images is None:
                raise UserError(f"{path}: needs the arrays {IMAGES[0]} and {LABELS[0]}; it has {', '.join(sorted(members))}")
            plain = {name: _unpack(archive, name, scratch) for name in (images, labels) if name}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: not a complete .npz file: {error}") from None
    if labels:
        request.without_labels()
    return array_source(request, f"arrays {path.name}", plain[images], plain[labels] if labels else request.labels, stamp(path))


def open_npy(request: Request) -> Source:
    """See ``open_source``."""
    files = [request.path] + ([request.labels] if request.labels else [])
    return array_source(request, " and ".join(["array", *(file.name for file in files)]), request.path, request.labels,
                        stamp(*files))


def array_source(request: Request, words: str, images: Path, labels: Path | None, stamped: str, *, split: str | None = None,
                 class_names: list[str] | None = None) -> Source:
    """Images of one .npy, labels of another; without labels all are of one class."""
    array = _load(request.path, images)
    channels_first = _channels_first(request.path, array)
    if request.unlabeled:
        labels = class_names = None
    notes = [] if labels else ["no labels: all images are of one class, 0, for unconditional training"]
    values = np.zeros(len(array), np.int64)
    if labels:
        where = request.labels or request.path
        values, class_names = number_classes(request, where, _load(where, labels), len(array), class_names)
    if split is None:
        one_split(request.path, (), request.split)
    digits = len(str(len(array) - 1))
    return Source(words, split or "all", [f"{number:0{digits}d}" for number in range(len(array))], values, class_names,
                  list(range(len(array))), ArrayReader(images, channels_first), stamped, notes)


def _unpack(archive: zipfile.ZipFile, name: str, scratch: Path) -> Path:
    path = scratch / f"{name}.npy"
    with open(path, "wb") as target, archive.open(f"{name}.npy") as packed:
        shutil.copyfileobj(packed, target, 1 << 20)
    return path


def _load(where, path: Path) -> np.ndarray:
    """A memory map of an .npy; objects are not unpickled."""
    if path.suffix != ".npy":
        raise UserError(f"{path}: labels for arrays are an .npy file of integers")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{where}: not an array of numbers: {' '.join(str(error).split())}") from None


def _channels_first(path, array: np.ndarray) -> bool:
    """Whether images are (C, H, W). Raises UserError if it does not hold images."""
    if array.dtype != np.uint8:
        raise UserError(f"{path}: images are {array.dtype}; store them as uint8, 0 to 255")
    if array.ndim in (3, 4) and 0 not in array.shape:
        if array.ndim == 3 or array.shape[3] in CHANNELS:
            return False
        if array.shape[1] in CHANNELS:
            return True
    raise UserError(f"{path}: images have shape {array.shape}; (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1, 3 or 4 "
                    "is needed")
