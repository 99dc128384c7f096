"""CIFAR-10's Python version: the archive as published, or the folder that torchvision unpacks it to.

Its batches are pickles. Their unpickler creates only lists, strings and arrays of numbers.
"""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from ditscale.data.sources.archive import DAMAGE
from ditscale.data.sources.arrays import array_source
from ditscale.data.sources.base import Request, Source, one_split, stamp
from ditscale.errors import UserError
from ditscale.writing import written_whole

ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
URL, MD5 = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}", "c58f30108f718f92721af3b95e74349a"    # as torchvision has them
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
META = "batches.meta"
NETWORK_SECONDS = 30


def batches_folder(path: Path) -> Path | None:
    """The folder with the batches: ``path`` or the one in it."""
    return next((folder for folder in (path, path / FOLDER) if (folder / BATCHES["train"][0]).is_file()), None)


def open_cifar10(request: Request) -> Source:
    """See ``open_source``."""
    request.without_labels()
    split = one_split(request.path, BATCHES, request.split)
    needed = [*BATCHES[split], META]
    folder = batches_folder(request.path)
    contents = _from_folder(folder, needed) if folder else _from_archive(request.path, needed)
    batches = [_unpickle(f"{request.path}: {name}", contents[name]) for name in needed]
    try:
        images = np.concatenate([batch["data"].reshape(-1, 3, 32, 32) for batch in batches[:-1]])
        labels = np.concatenate([np.asarray(batch["labels"]) for batch in batches[:-1]])
        class_names = [str(name) for name in batches[-1]["label_names"]]
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{request.path}: its batches are not those of CIFAR-10: {error!r}") from None
    np.save(request.scratch / "images.npy", images)
    np.save(request.scratch / "labels.npy", labels)
    return array_source(request, "CIFAR-10, Python version", request.scratch / "images.npy", request.scratch / "labels.npy",
                        stamp(*([folder / name for name in needed] if folder else [request.path])), split=split,
                        class_names=class_names)


def downloaded(folder: Path, *, allowed: bool) -> Path:
    """The published archive in ``folder``, downloaded if it is missing and that is allowed.

    Raises:
        UserError: it is missing and may not or cannot be downloaded, or it is not the published one.
    """
    path = folder / ARCHIVE
    if not path.exists():
        if not allowed:
            raise UserError(f"{path}: no such file; add --download to fetch it (170 MB), or give the path of a copy")
        with written_whole(path) as aside:
            _fetch(aside)
            _check_md5(aside, URL)
    _check_md5(path, path)
    return path


def _fetch(path: Path) -> None:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(URL, timeout=NETWORK_SECONDS) as answer, open(path, "wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise UserError(f"{URL}: cannot be fetched: {getattr(error, 'reason', error)}; fetch it elsewhere and give "
                        "the path of the copy") from None


def _check_md5(path: Path, where) -> None:
    found = hashlib.md5(path.read_bytes()).hexdigest()
    if found != MD5:
        raise UserError(f"{where}: MD5 {found} is not that of the published archive, {MD5}; remove it and fetch it again")


def _from_folder(folder: Path, names: list[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def _from_archive(path: Path, names: list[str]) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as tar:
            return {name: tar.extractfile(f"{FOLDER}/{name}").read() for name in names}
    except (*DAMAGE, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a complete archive of CIFAR-10's Python version: {error}") from None


class _ArraysOnly(pickle.Unpickler):
    """Allows the three names that an array of numbers needs; others are refused before lookup."""

    def find_class(self, module: str, name: str):
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.ndarray(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"asks for {module}.{name}")


def _unpickle(where, content: bytes) -> dict:
    """A dict of lists, strings and arrays."""
    try:
        return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()       # written by Python 2
    # A damaged pickle may raise any error.
    except Exception as error:
        raise UserError(f"{where}: not a batch of CIFAR-10: {type(error).__name__}: {error}") from None
