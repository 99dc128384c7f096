"""A folder of image files: class folders, splits of class folders, or flat with a labels file; or of .tar archives (shards.py)."""

import os
from pathlib import Path

from ditscale.data.sources.base import Request, Source
from ditscale.data.sources.layout import SUFFIXES, arrange
from ditscale.data.sources.shards import open_shards


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
        return open_shards(request, sorted(tars))
    layout = arrange(request, files, lambda name: (root / name).read_bytes())
    places = []
    for name in layout.names:
        stat = os.stat(root / name)
        places.append((name, stat.st_size, stat.st_mtime_ns))
    return Source(f"folder {root.resolve().name}", layout.split, layout.names, layout.labels, layout.class_names, places,
                  FolderReader(root), str(root), layout.notes)
