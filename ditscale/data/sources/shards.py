"""A folder of .tar archives: WebDataset's shards, or one archive a class.

::

    imagenet-train-000000.tar ...       shards: names of digits, or digits behind "-", "_" or "."; they say no class. The words of
                                        their names, or the folders around them, may say the split
    n01440764.tar ...                   classes: the images of one each, as in ImageNet's tar of tars
"""

import re
from pathlib import Path

from ditscale.data.sources.archive import RangesReader, members_of
from ditscale.data.sources.base import Request, Source, stamp
from ditscale.data.sources.layout import SPLITS, arrange

SHARD = re.compile(r"(.*[-_.])?\d+")


def open_shards(request: Request, tars: list[str]) -> Source:
    """The images of all archives of a folder; ``tars`` are their names in it, sorted."""
    root = request.path
    places: dict[str, tuple[int, int, int]] = {}
    shards = all(SHARD.fullmatch(Path(name).stem) for name in tars)
    splits = [_split_of(name) for name in tars] if shards else []
    for number, tar in enumerate(tars):
        above = tar.removesuffix(tar[-4:])
        if splits and all(splits):                                             # as folders of splits, whatever says it
            above = f"{splits[number]}/{above.replace('/', '-')}"
        places |= {f"{above}/{name}": (number, *place) for name, place in members_of(root / tar, root / tar)}
    paths = [root / name for name in tars]
    reader = RangesReader(*paths)
    layout = arrange(request, list(places), lambda name: reader.read(places[name]), shards=shards)
    return Source(f"folder {root.resolve().name} of {len(tars)} tar archives", layout.split, layout.names, layout.labels,
                  layout.class_names, [places[name] for name in layout.names], reader, stamp(*paths), layout.notes)


def _split_of(name: str) -> str | None:
    """The split that a shard's folders or the words of its name say; None where they say none, or several."""
    found = {word for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else None
