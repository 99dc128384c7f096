"""Labels files: CSV with a column of names and one of labels, JSON as StyleGAN's and EDM's ``dataset.json``, ImageNet's own."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ditscale.data.sources import imagenet
from ditscale.errors import UserError

NAMES = ("name", "filename", "file_name", "file", "image", "image_name", "image_id", "imageid", "img", "path", "filepath",
         "file_path", "image_path", "fname", "key", "id")
LABELS = ("label", "labels", "class", "class_id", "class_index", "classid", "target", "category", "category_id", "y")
KAGGLE = ["imageid", "predictionstring"]
SHOWN = 80                                                                      # characters of a line in a message


def read_labels(path: Path) -> Mapping[str, int | str]:
    """``{image name: label}`` from the ``--labels`` file: see ``parse_labels``, or ImageNet's devkit."""
    try:
        found: Mapping[str, int | str] | None = imagenet.from_devkit(path) if imagenet.is_devkit(path) else parse_labels(path, path.read_bytes())
    except OSError as error:
        raise UserError(f"--labels {path}: cannot be read: {error.strerror or error}") from None
    if found is None:
        raise UserError(f"--labels {path}: its labels are null; leave --labels out, and give --unlabeled for images without labels")
    return found


def parse_labels(where, content: bytes) -> Mapping[str, int | str] | None:
    """``{image name: label}``, labels unchanged. None: JSON without labels.

    Raises:
        UserError: the file is not of this form, or names an image twice.
    """
    name = str(where).lower()
    pairs: Sequence[tuple[str, int | str]] | None
    if name.endswith(".json"):
        pairs = _from_json(where, content)
    elif name.endswith(".csv"):
        pairs = _from_csv(where, content)
    elif name.endswith(imagenet.TINY):
        pairs = list(imagenet.from_annotations(where, content).items())
    else:
        raise UserError(f"{where}: labels for image files are a .csv (name,label), a .json (dataset.json of StyleGAN or EDM), or "
                        f"ImageNet's {imagenet.KAGGLE} or devkit")
    if pairs is None:
        return None
    table = dict(pairs)
    if len(table) < len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(a for a, b in zip(names, names[1:]) if a == b)
        raise UserError(f"{where}: names {twice} twice; each image has one label")
    if not table:
        raise UserError(f"{where}: holds no labels")
    return table


def _from_csv(where, content: bytes) -> list[tuple[str, str]]:
    try:
        text = content.decode("utf-8-sig")
        first = text.partition("\n")[0]
        rows = list(csv.reader(io.StringIO(text), delimiter=next((sign for sign in ",;\t" if sign in first), ",")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: not a CSV file in UTF-8: {error}") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    name, label = _columns(where, header, ",".join(rows[0]) if rows else "")
    pairs = []
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if any(cells):
            if len(cells) != len(header) or not cells[name] or not cells[label]:
                raise UserError(f"{where}: line {number} is not a name and a label: {','.join(row)[:SHOWN]}")
            pairs.append((cells[name], cells[label].split()[0] if header == KAGGLE else cells[label]))
    return pairs


def _columns(where, header: list[str], shown: str) -> tuple[int, int]:
    """The positions of the columns of names and labels: ``name`` and ``label`` if they exist, else the only possible ones."""
    if header == KAGGLE:
        return 0, 1
    found = []
    for words in (NAMES, LABELS):
        places = [place for place, word in enumerate(header) if word == words[0]] or \
            [place for place, word in enumerate(header) if word in words]
        found += places if len(places) == 1 else []
    if len(found) != 2:
        raise UserError(f"{where}: its first line must be: name,label (or one other name for each, for example filename,class); it is: "
                        f"{shown[:SHOWN] or '(empty)'}")
    return found[0], found[1]


def _from_json(where, content: bytes) -> list[tuple[str, int]] | None:
    try:
        values = json.loads(content)
        pairs = values["labels"]
        good = pairs is None or all(len(pair) == 2 and isinstance(pair[0], str) and _is_whole(pair[1]) for pair in pairs)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise UserError(f'{where}: not of the form {{"labels": [["name", 0], ...]}} with integers as labels')
    return None if pairs is None else [(name, int(label)) for name, label in pairs]


def _is_whole(value) -> bool:
    return type(value) is int or type(value) is float and value.is_integer()
