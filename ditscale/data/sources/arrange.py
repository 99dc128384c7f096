"""From file names to classes and splits: shared by folders and archives of image files.

::

    cat/1.jpg                  class folders
    train/cat/1.jpg            splits of class folders; names of splits are in ``SPLITS``
    1.jpg                      no classes, or a labels file
    any/cat/1.jpg              a single enclosing folder is ignored
    1.jpg, 1.cls               WebDataset's: see sidecar.py
    val/1.JPEG                 ImageNet as published: see imagenet.py
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ditscale.data.sources import imagenet
from ditscale.data.sources.base import Reader, Request, Source, one_split
from ditscale.data.sources.classes import check_classes, number_classes
from ditscale.data.sources.labelfiles import parse_labels, read_labels
from ditscale.data.sources.sidecar import labels_beside
from ditscale.errors import UserError, count

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "heldout")
HIDDEN = re.compile(r"(^|/)(\.(?!/)|__MACOSX)")                                 # "./" is only a way to write a path
LABELS_NAME = "dataset.json"                                                    # StyleGAN's and EDM's, at the root

Table = tuple[Path | str, Mapping[str, int | str]]                              # the file of labels by name, and the labels


@dataclass(frozen=True)
class Layout:
    names: list[str]                                                            # full names as in the source, sorted
    labels: np.ndarray
    class_names: list[str] | None
    split: str
    notes: list[str]

    def source(self, words: str, places: list, reader: Reader, stamped: str) -> Source:
        """These images, with the reader's position of each."""
        return Source(words, self.split, self.names, self.labels, self.class_names, places, reader, stamped, self.notes)


@dataclass(frozen=True)
class Split:
    """The images to use."""

    name: str | None                                                            # None: no splits
    below: str                                                                  # the enclosing folders, "train/"
    names: list[str]                                                            # as in the source, sorted
    classes: list[str | None]                                                   # the class folder of each, None if it is in none
    known: list[str]                                                            # the class folders of all splits
    others: int                                                                 # images of other splits


def arrange(request: Request, files: list[str], read, *, shards: bool = False) -> Layout:
    """Choose, sort and label image files.

    Args:
        files: names with "/" between folders, relative to the source.
        read: returns the bytes of the named file.
        shards: the folders are archives without class names: WebDataset's.
    """
    shown = [name for name in files if not HIDDEN.search(name)] if HIDDEN.search("/".join(files)) else files
    images = sorted(name for name in shown if name.lower().endswith(SUFFIXES))
    if not images:
        held = f"it holds {', '.join(sorted(shown)[:3])}, ..." if shown else "it is empty"
        raise UserError(f"{request.path}: no images in it ({', '.join(SUFFIXES)}); {held}")
    around = _shared_folder(images)
    found = None if request.unlabeled or request.as_images else _labels_table(request, shown, around, read)
    if found is not None and request.split is None:
        return _by_table(request, *found, images, around, "all", _passed_over(shown, len(images)))
    return _in_split(request, found, split_of(request, images), shown, read, shards)


def _in_split(request: Request, found: Table | None, split: Split, shown: list[str], read, shards: bool) -> Layout:
    """The images of one split, with labels from the first available source: a table, files next to the images, a published table, folders."""
    notes = _passed_over(shown, len(split.names) + split.others)
    if found is not None:
        return _by_table(request, *found, split.names, split.below, split.name or "all", notes)
    if request.unlabeled:
        return _without_labels(split, [*notes, "no labels are read: all images are of one class, 0, for unconditional training"])
    if not request.as_images:
        beside = labels_beside(request, split.names, shown, read, None not in split.classes and not shards)
        if beside is not None:
            labels, names = number_classes(request, request.path, beside[0], len(split.names))
            notes = _passed_over(shown, len(split.names) + split.others + beside[1])
            return Layout(split.names, labels, names, split.name or "all", notes)
        table = _published(request, split, shown, read)
        if table is not None:
            return _by_table(request, *table, split.names, split.below, split.name or "all", notes,
                             split.known if split.name else ())
        if shards:
            raise UserError(f"{request.path}: its shards hold no labels, neither .cls nor .json; use --unlabeled for images without labels")
    return _by_folder(request, split, notes)


def _passed_over(shown: list[str], used: int) -> list[str]:
    others = len(shown) - used
    return [f"Skipped {others:,} files that are not images" if others > 1 else "Skipped 1 file that is not an image"] if others > 0 else []


def _shared_folder(images: list[str], root: str = "") -> str:
    """The one folder inside ``root`` that holds all images, as "any/", or "". They are sorted, so the first and last tell."""
    folder = images[0][:images[0].find("/", len(root)) + 1]
    return folder[len(root):] if images[-1].startswith(folder) else ""


def _root(images: list[str]) -> str:
    """The folders around all class folders, "" or "any/"; the innermost folder with all images may be the only class."""
    root = ""
    while folder := _shared_folder(images, root):
        if folder[:-1] in SPLITS or not all(name.count("/", len(root)) >= 2 for name in images):
            break
        root += folder
    return root


def split_of(request: Request, images: list[str]) -> Split:
    """The requested split. Raises UserError if it is ambiguous or missing."""
    root = _root(images)
    folders = [_folder(name, len(root)) for name in images]
    if not set(folders) <= set(SPLITS):
        one_split(request.path, (), request.split)
        return Split(None, root, images, folders, sorted({*folders} - {None}), 0)
    name = one_split(request.path, set(folders), request.split)
    below = {folder: len(f"{root}{folder}/") for folder in SPLITS}
    of: dict[str, list[str | None]] = {folder: [] for folder in sorted(set(folders))}
    for image, folder in zip(images, folders):
        of[folder].append(_folder(image, below[folder]))
    known = {folder: {*classes} for folder, classes in of.items() if None not in classes}
    # A split whose only folder is none of the others' holds no classes: Tiny-ImageNet's val/images.
    several = set().union(*(classes for classes in known.values() if len(classes) > 1))
    known = {folder: classes for folder, classes in known.items() if len(classes) > 1 or classes <= several or not several}
    names = [image for image, place in zip(images, folders) if place == name]
    mine: list[str | None] = of[name] if name in known or None in of[name] else [None] * len(names)
    return Split(name, f"{root}{name}/", names, mine, sorted(set().union(*known.values())), len(images) - len(names))


def _by_folder(request: Request, split: Split, notes: list[str]) -> Layout:
    """Classes are the folders below the root, or below each split: those of all splits, so that the numbers agree."""
    loose = [name for name, folder in zip(split.names, split.classes) if folder is None]
    if 0 < len(loose) < len(split.names):
        raise UserError(f"{request.path}: {count(len(loose), 'image is', 'images are')} next to the class folders, for example {loose[0]}; "
                        "move each into a class folder, or give --labels")
    if loose and split.known and not request.as_images:
        raise UserError(f"{request.path}: the images of split {split.name} are in no class folders, for example {loose[0]}, and other splits "
                        f"have {len(split.known)} classes; give --labels FILE, or --unlabeled for images without labels")
    if loose:
        notes = [*notes, "no class folders and no labels: all images are of one class, 0, for unconditional training"]
        return _without_labels(split, notes)
    classes = split.known
    if len(classes) == 1:
        notes = [*notes, f"one class only, '{classes[0]}': good for unconditional training"]
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[folder] for folder in split.classes], np.int64)
    if not request.as_images:
        where = f"{request.path}, split {split.name}" if split.name else request.path
        check_classes(request, where, np.bincount(labels, minlength=len(classes)), classes)
    return Layout(split.names, labels, classes, split.name or "all", notes)


def _without_labels(split: Split, notes: list[str]) -> Layout:
    return Layout(split.names, np.zeros(len(split.names), np.int64), None, split.name or "all", notes)


def _published(request: Request, split: Split, files: list[str], read) -> Table | None:
    """The file of ImageNet's or Tiny-ImageNet's validation labels, and the labels; None for other images.

    Raises:
        UserError: they are ImageNet's, and their labels are missing.
    """
    annotations = f"{split.below}{imagenet.TINY}"
    if annotations in files:
        return f"{request.path}/{annotations}", imagenet.from_annotations(annotations, read(annotations))
    for words, pattern in (("validation", imagenet.VAL), ("test", imagenet.TEST)):
        if split.classes[0] is None and pattern.fullmatch(split.names[0]) and all(map(pattern.fullmatch, split.names)):
            kaggle = next((name for name in files if name.rpartition("/")[2] == imagenet.KAGGLE), None)
            if words == "test":
                raise UserError(f"{request.path}: these are ImageNet's test images, whose labels were never published; --unlabeled "
                                "takes them without")
            if kaggle:
                return f"{request.path}/{kaggle}", parse_labels(kaggle, read(kaggle))
            raise UserError(f"{request.path}: these are ImageNet's validation images, whose labels are in another file: give --labels "
                            f"{imagenet.KAGGLE} (Kaggle's) or --labels ILSVRC2012_devkit_t12.tar.gz (the devkit), or --unlabeled")
    return None


def _folder(name: str, start: int) -> str | None:
    """The folder at position ``start`` of a name; None if the file itself is there."""
    end = name.find("/", start)
    return None if end < 0 else name[start:end]


def _labels_table(request: Request, files: list[str], around: str, read) -> Table | None:
    """The file of labels by name, and the labels: --labels, else the source's own dataset.json; None if there is neither."""
    if request.labels is not None:
        return request.labels, read_labels(request.labels)
    for name in dict.fromkeys((LABELS_NAME, around + LABELS_NAME)):
        if name in files and (table := parse_labels(f"{request.path}/{name}", read(name))) is not None:
            return f"{request.path}/{name}", table
    return None


def _by_table(request: Request, where: Path | str, table: Mapping[str, int | str], images: list[str], around: str, split: str, notes: list[str],
              known: Sequence[str] = ()) -> Layout:
    """Classes from the table. Its names are relative to the source's folder or to the only folder in it, or are the files' own names;
    all of them may lack the file ending.

    Args:
        known: the classes of other splits, whose numbers must agree with these.
    """
    short = [name.removeprefix(around) for name in images]
    tried = [[one if one in table else other for one, other in zip(images, short)], [name.rpartition("/")[2] for name in images],
             [name.rpartition(".")[0] for name in short], [name.rpartition("/")[2].rpartition(".")[0] for name in images]]
    keys = next((keys for keys in tried if table.keys() >= {*keys} and len({*keys}) == len(keys)), tried[0])
    missing, unknown = sorted({*keys} - table.keys()), sorted(table.keys() - {*keys})
    if missing:
        raise UserError(f"{where}: no label for {len(missing)} of {len(images)} images, for example {missing[0]}; its first name is "
                        f"'{next(iter(table))}'")
    if unknown:
        raise UserError(f"{where}: {len(unknown)} of its {len(table)} names are not images of {request.path}, for example {unknown[0]}")
    labels, names = number_classes(request, where, [table[key] for key in keys], len(images))
    if known and names and names != list(known):
        classes = sorted({*names, *known})
        labels, names = np.array([classes.index(name) for name in names], np.int64)[labels], classes
        check_classes(request, where, np.bincount(labels, minlength=len(classes)), classes)
    return Layout(images, labels, names, split, notes)
