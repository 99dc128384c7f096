"""Named tensors in one safetensors file, verified on disk against memory."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ditscale.digest import file_sha256

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}       # by size: bits are compared, so NaN equals NaN


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """``save_file``, with the permissions of any new file: safetensors writes files that only their owner can read."""
    save_file(tensors, path, metadata) if metadata else save_file(tensors, path)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def write_verified(path: Path, tensors: dict[str, Tensor]) -> str:
    """Writes tensors (CPU, contiguous), flushes, reads them back from disk and compares each bit; returns the file's sha256.

    The file is memory-mapped for reading, so memory holds the tensors only once.

    Raises:
        OSError: it could not be written, or the data read back differ.
    """
    try:
        save_tensors(tensors, path)
    except SafetensorError as error:
        raise OSError(f"{path.name} cannot be written: {error}") from None
    _flush(path)
    try:
        different = _different(path, tensors)
    except SafetensorError as error:
        raise OSError(f"{path.name} was written, but cannot be read back: {error}") from None
    if different:
        raise OSError(f"{path.name} was written, but {different[0]} differs from memory when read back")
    return file_sha256(path)


def _flush(path: Path) -> None:
    """Flushes to disk and drops the kernel's cache, so that the next read comes from the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _different(path: Path, tensors: dict[str, Tensor]) -> list[str]:
    """The names that only one of the two has; if there are none, the names of tensors that differ."""
    with safe_open(path, "pt") as file:
        return sorted(set(file.keys()) ^ tensors.keys()) or \
            [name for name, tensor in tensors.items() if not _same(file.get_tensor(name), tensor)]


def _same(found: Tensor, wanted: Tensor) -> bool:
    if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        return False
    word = WORDS[wanted.element_size()]
    return torch.equal(found.reshape(-1).view(word), wanted.reshape(-1).view(word))
