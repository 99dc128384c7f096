"""Chunks: decoded images that worker processes store as files, so that a stopped build can continue.

A chunk is ``<key>.pixels`` (raw uint8, image after image) and ``<key>.json``, which is written last: if it agrees with
the pixels, the chunk is complete. The key changes with the images and the recipe, so chunks are never confused.
"""

import hashlib
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import __version__ as pillow_version

from ditscale.data.decode import Unreadable, count, decode, unlimited_pillow
from ditscale.data.sources.base import Reader, Source
from ditscale.digest import new_digest
from ditscale.writing import writing

RULES = 2                                                                       # increase it when decoding, cropping or hashing changes
CHUNK_BYTES, CHUNK_IMAGES = 32 << 20, 1024                                      # a chunk holds no more than either
READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class Recipe:
    """How every image is processed."""

    size: int
    channels: int
    max_pixels: int

    @property
    def record_bytes(self) -> int:
        return self.channels * self.size ** 2


@dataclass(frozen=True)
class Task:
    """A chunk to be made."""

    folder: Path
    key: str
    reader: Reader
    places: list
    recipe: Recipe

    @property
    def pixels(self) -> Path:
        return self.folder / f"{self.key}.pixels"

    @property
    def record(self) -> Path:
        return self.folder / f"{self.key}.json"


@dataclass(frozen=True)
class Chunk:
    """The result of a task."""

    digests: list[str]                                                          # hash of each image as it was read
    handled: dict[str, int]                                                     # see ``decode.HANDLED``
    failed: dict[str, str]                                                      # place in the chunk: why it cannot be used
    crc32: int                                                                  # of the stored pixels

    @property
    def kept(self) -> list[int]:
        """Positions in the chunk of the images whose pixels are stored, in order."""
        return [place for place in range(len(self.digests)) if str(place) not in self.failed]


def tasks_of(source: Source, recipe: Recipe, folder: Path) -> list[tuple[slice, Task]]:
    """The chunks of a source. They do not depend on the number of workers."""
    step = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // recipe.record_bytes))
    parts = [slice(first, min(first + step, len(source.names))) for first in range(0, len(source.names), step)]
    rules = repr((RULES, pillow_version, recipe))
    keys = [hashlib.sha256((rules + source.key(part)).encode()).hexdigest()[:32] for part in parts]
    return [(part, Task(folder, key, source.reader, source.places[part], recipe)) for part, key in zip(parts, keys)]


def finished(task: Task) -> Chunk | None:
    """The chunk if it was made before and is complete."""
    try:
        chunk = Chunk(**json.loads(task.record.read_bytes()))
        stored = task.pixels.read_bytes()
    except (OSError, ValueError, TypeError):
        return None
    return chunk if zlib.crc32(stored) == chunk.crc32 else None                 # a power failure may leave holes in it


def make_chunk(task: Task) -> Chunk:
    """Read, decode and crop the images of a task, and store them."""
    recipe, digests, handled, failed = task.recipe, [], [], {}
    pixels = np.empty((len(task.places), recipe.channels, recipe.size, recipe.size), np.uint8)
    used = 0
    with unlimited_pillow():
        for number, place in enumerate(task.places):
            content, digest, reason = read_one(task.reader, place)
            digests.append(digest)
            try:
                if content is None:
                    raise Unreadable(reason)
                image, done = decode(content, size=recipe.size, channels=recipe.channels, max_pixels=recipe.max_pixels)
            except Unreadable as error:
                failed[str(number)] = str(error)
            else:
                pixels[used] = image.transpose(2, 0, 1)
                handled.append(done)
                used += 1
    stored = pixels[:used].reshape(-1).data
    chunk = Chunk(digests, count(handled), failed, zlib.crc32(stored))
    with writing(task.pixels):
        task.pixels.write_bytes(stored)
        task.record.write_text(json.dumps(vars(chunk)))
    return chunk


def hash_items(task: Task) -> list[str]:
    """The hash of each image of a task as it is read."""
    return [read_one(task.reader, place)[1] for place in task.places]


def read_one(reader: Reader, place) -> tuple[bytes | np.ndarray | None, str, str]:
    """(content, its hash, ""), or (None, "unreadable", why)."""
    try:
        content = reader.read(place)
    except READ_ERRORS as error:
        return None, "unreadable", getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return content, new_digest(content if isinstance(content, bytes) else content.data).hexdigest(), ""
