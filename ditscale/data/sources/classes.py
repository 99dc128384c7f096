"""Converts a source's labels to class numbers 0, 1, ...: numbers as they are, words sorted."""

import re

import numpy as np

from ditscale.data.sources.base import MOST_CLASSES, Request, checked_labels
from ditscale.errors import UserError

NUMBER = re.compile(r"[+-]?\d{1,18}(\.0*)?")                                   # "10.0": what pandas writes for 10 in a column with gaps


def number_classes(request: Request, where, values, count: int,
                   names: list[str] | None = None) -> tuple[np.ndarray, list[str] | None]:
    """Labels, int64 (count,), and the classes' names if known: ``names``, or the words in the data.

    Args:
        where: the file they come from, for messages.
        values: integers, also as 10.0 or as text, or words; one for each of ``count`` images.

    Raises:
        UserError: they are neither, or a class has no image and ``--empty-classes`` was not given.
    """
    labels = _numbers(where, np.asarray(values))
    if labels.dtype.kind in "UO":
        words, numbers = np.unique(labels.astype(str), return_inverse=True)
        return numbers.astype(np.int64), words.tolist()
    if request.first_label and (labels == 0).any():
        raise UserError(f"{where}: label 0 with --first-label {request.first_label}: classes are counted from 0 here; leave it out")
    if (labels == -1).any():
        raise UserError(f"{where}: label -1 is not between 0 and {MOST_CLASSES - 1}; splits without labels are published so: "
                        "--unlabeled takes their images")
    labels = checked_labels(where, labels - request.first_label if request.first_label else labels, count)
    if names and labels.max() >= len(names):
        raise UserError(f"{where}: label {labels.max()} has no name; the file names {len(names)} classes")
    check_classes(request, where, np.bincount(labels, minlength=len(names or ())), names)
    return labels, names


def check_classes(request: Request, where, counts: np.ndarray, names: list[str] | None) -> None:
    """Raises UserError for a class without an image, unless ``--empty-classes`` was given."""
    empty = np.flatnonzero(counts == 0)
    if request.empty_classes or not empty.size:
        return
    first = f"class {empty[0]}" + (f", {names[empty[0]]}," if names else "")
    if names is None and empty.tolist() == [0]:
        raise UserError(f"{where}: class 0 has no image, labels are 1 to {len(counts) - 1}; labels that start at 1 are the usual "
                        "cause: --first-label 1 takes them (--empty-classes keeps an empty class 0)")
    more = f", nor have {empty.size - 1} more of {len(counts)}" if empty.size > 1 else ""
    raise UserError(f"{where}: {first} has no image in this split{more}; if that is intended, give --empty-classes")


def _numbers(where, labels: np.ndarray) -> np.ndarray:
    """The labels as integers; words stay unchanged."""
    if labels.dtype.kind == "f":
        if not (np.isfinite(labels) & (labels == np.round(labels))).all():
            wrong = labels[~(np.isfinite(labels) & (labels == np.round(labels)))][0]
            raise UserError(f"{where}: label {wrong}; integers from 0 are needed, or words")
        return labels.astype(np.int64)
    if labels.dtype.kind in "UO" and all(isinstance(value, (str, int, float)) for value in labels.tolist()):
        texts = [str(value).strip() for value in labels.tolist()]
        words = [text for text in texts if not NUMBER.fullmatch(text)]
        if len(words) == len(texts):
            return np.array(texts)
        if words:
            number = next(text for text in texts if NUMBER.fullmatch(text))
            raise UserError(f"{where}: some labels are numbers, for example {number}, and {len(words)} are words, for example '{words[0]}'; make "
                            "all of them one or the other")
        return np.array([int(text.partition(".")[0]) for text in texts])
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where}: labels are {labels.dtype}; integers from 0 are needed")
    return labels
