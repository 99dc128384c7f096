"""From file names to classes and splits: what folders and archives of image files share.

::

    cat/1.jpg                  class folders
    train/cat/1.jpg            splits of class folders; names of splits are in ``SPLITS``
    1.jpg                      no classes, or a labels file
    any/cat/1.jpg              one folder around all of it is passed over
"""

import re
from dataclasses import dataclass

import numpy as np

from ditscale.data.sources.base import Request, checked_labels, one_split
from ditscale.data.sources.labels import parse_labels
from ditscale.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "heldout")
HIDDEN = re.compile(r"(^|/)(\.(?!/)|__MACOSX)")                                 # "./" is only a way to write a path
LABELS_NAME = "dataset.json"                                                    # StyleGAN's and EDM's, at the root


@dataclass(frozen=True)
class Layout:
    names: list[str]                                                            # full names as in the source, sorted
    labels: np.ndarray
    class_names: list[str] | None
    split: str
    notes: list[str]


def arrange(request: Request, files: list[str], read) -> Layout:
    """Choose, sort and label image files.

    Args:
        files: names with "/" between folders, relative to the source.
        read: gives the bytes of the file of a name.
    """
    shown = [name for name in files if not HIDDEN.search(name)] if HIDDEN.search("/".join(files)) else files
    images = sorted(name for name in shown if name.lower().endswith(SUFFIXES))
    if not images:
        found = f"it holds {', '.join(sorted(shown)[:3])}, ..." if shown else "it is empty"
        raise UserError(f"{request.path}: no images in it ({', '.join(SUFFIXES)}); {found}")
    around = _shared_folder(images)
    table = _labels_table(request, shown, around, read)
    notes = [] if len(shown) == len(images) else [f"{len(shown) - len(images)} files that are no images are passed over"]
    if table is not None:
        return _by_table(request, images, around, table, notes)
    return _by_folder(request, images, _root(images), notes)


def _shared_folder(images: list[str], root: str = "") -> str:
    """The one folder inside ``root`` that holds all images, as "any/", or "". They are sorted, so the first and last tell."""
    folder = images[0][:images[0].find("/", len(root)) + 1]
    return folder[len(root):] if images[-1].startswith(folder) else ""


def _root(images: list[str]) -> str:
    """The folders around all class folders, "" or "any/"; the innermost folder that holds all images may be the only class."""
    root = ""
    while folder := _shared_folder(images, root):
        if folder[:-1] in SPLITS or not all(name.count("/", len(root)) >= 2 for name in images):
            break
        root += folder
    return root


def _by_folder(request: Request, images: list[str], root: str, notes: list[str]) -> Layout:
    """Classes are the folders below the root, or below each split."""
    folders, split, chosen = [_folder(name, len(root)) for name in images], None, images
    if set(folders) <= set(SPLITS):
        split = one_split(request.path, set(folders), request.split)
        chosen = [name for name, folder in zip(images, folders) if folder == split]
        below = {folder: len(f"{root}{folder}/") for folder in SPLITS}
        folders = [_folder(name, below[folder]) for name, folder in zip(images, folders)]
    else:
        one_split(request.path, (), request.split)
    loose = [name for name, folder in zip(images, folders) if folder is None]
    if 0 < len(loose) < len(images):
        raise UserError(f"{request.path}: {len(loose)} images lie beside the class folders, as {loose[0]}; "
                        "move each into a class folder, or give --labels")
    if loose:
        notes = [*notes, "no class folders and no labels: all images are of one class, 0, for unconditional training"]
        return Layout(chosen, np.zeros(len(chosen), np.int64), None, split or "all", notes)
    classes = sorted(set(folders))                                              # of all splits, so that they agree
    if len(classes) == 1:
        notes = [*notes, f"one class only, '{classes[0]}': good for unconditional training"]
    number = {name: label for label, name in enumerate(classes)}
    first = len(root) + (len(split) + 1 if split else 0)
    labels = np.array([number[_folder(name, first)] for name in chosen], np.int64)
    return Layout(chosen, labels, classes, split or "all", notes)


def _folder(name: str, start: int) -> str | None:
    """The folder that begins at ``start`` of a name; None where the file itself does."""
    end = name.find("/", start)
    return None if end < 0 else name[start:end]


def _labels_table(request: Request, files: list[str], around: str, read) -> dict[str, int | str] | None:
    """Label by name, from --labels or else the source's own dataset.json; None where there is neither."""
    if request.labels is not None:
        return parse_labels(request.labels, request.labels.read_bytes())
    for name in dict.fromkeys((LABELS_NAME, around + LABELS_NAME)):
        if name in files:
            return parse_labels(f"{request.path}/{name}", read(name))
    return None


def _by_table(request: Request, images: list[str], around: str, table: dict[str, int | str], notes: list[str]) -> Layout:
    """Classes are what the table says; its names count from the source's folder, or from the one folder in it."""
    where = request.labels or f"{request.path}/{LABELS_NAME}"
    one_split(request.path, (), request.split)
    short = {name if name in table else name.removeprefix(around): name for name in images}
    missing, unknown = sorted(short.keys() - table.keys()), sorted(table.keys() - short.keys())
    if missing:
        raise UserError(f"{where}: no label for {len(missing)} of {len(images)} images, as {missing[0]}")
    if unknown:
        raise UserError(f"{where}: {len(unknown)} of its {len(table)} names are no images of {request.path}, as {unknown[0]}")
    values = [table[name] for name in short]
    names = sorted(set(values)) if isinstance(values[0], str) else None
    labels = checked_labels(where, [names.index(value) for value in values] if names else values, len(images))
    return Layout(list(short.values()), labels, names, "all", notes)
