"""A folder of image files: class folders, splits of class folders, or flat with a labels file; or of .tar archives.

::

    imagenet-train-000000.tar ...       shards: names are digits, or end in digits after "-", "_" or "."; no class. Words of
                                        their names, or the folders around them, may name the split
    n01440764.tar ...                   classes: the images of one class each, as in ImageNet's tar of tars
"""

import os
import re
from pathlib import Path

from ditscale.data.sources.archive import RangesReader, members_of
from ditscale.data.sources.arrange import SPLITS, SUFFIXES, arrange
from ditscale.data.sources.base import Request, Source, stamp

SHARD = re.compile(r"(.*[-_.])?\d+")


class FolderReader:
    """Reads the files named by (name, size in bytes, time of change)."""

    def __init__(self, root: Path):
        self._root = root

    def read(self, place) -> bytes:
        return (self._root / place[0]).read_bytes()


def open_folder(request: Request) -> Source:
    """See ``open_source``. Links to files and folders are followed."""
    root = request.path
    files = [os.path.relpath(os.path.join(above, name), root)
             for above, _, names in os.walk(root, followlinks=True) for name in names]
    tars = [name for name in files if name.lower().endswith(".tar")]
    if tars and not any(name.lower().endswith(SUFFIXES) for name in files):
        return _open_archives(request, sorted(tars))
    layout = arrange(request, files, lambda name: (root / name).read_bytes())
    places = []
    for name in layout.names:
        stat = os.stat(root / name)
        places.append((name, stat.st_size, stat.st_mtime_ns))
    return layout.source(f"folder {root.resolve().name}", places, FolderReader(root), str(root))


def _open_archives(request: Request, tars: list[str]) -> Source:
    """The images of all archives of a folder; ``tars`` are their names in it, sorted."""
    root = request.path
    places: dict[str, tuple[int, int, int]] = {}
    shards = all(SHARD.fullmatch(Path(name).stem) for name in tars)
    splits = [_split_of(name) for name in tars] if shards else []
    for number, tar in enumerate(tars):
        above = tar.removesuffix(tar[-4:])
        if splits and all(splits):                                             # as folders of splits, wherever the split is named
            above = f"{splits[number]}/{above.replace('/', '-')}"
        places |= {f"{above}/{name}": (number, *place) for name, place in members_of(root / tar, root / tar)}
    paths = [root / name for name in tars]
    reader = RangesReader(*paths)
    layout = arrange(request, list(places), lambda name: reader.read(places[name]), shards=shards)
    return layout.source(f"folder {root.resolve().name} of {len(tars)} tar archives", [places[name] for name in layout.names], reader,
                         stamp(*paths))


def _split_of(name: str) -> str | None:
    """The split named by a shard's folders or the words of its name; None if there is none, or several."""
    found = {word for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else None
