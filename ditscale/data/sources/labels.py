"""Labels files: CSV with the columns name and label, or JSON as StyleGAN's and EDM's ``dataset.json``."""

import csv
import io
import json

from ditscale.errors import UserError


def parse_labels(where, content: bytes) -> dict[str, int | str] | None:
    """``{image name: label}``: whole numbers, or words where one label at least is no number. None: JSON without labels.

    Raises:
        UserError: the file is not of this form, or names an image twice.
    """
    if str(where).lower().endswith(".json"):
        pairs = _from_json(where, content)
    elif str(where).lower().endswith(".csv"):
        pairs = _from_csv(where, content)
    else:
        raise UserError(f"{where}: labels for image files are a .csv (name,label) or a .json (dataset.json of StyleGAN or EDM)")
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


def _from_csv(where, content: bytes) -> list[tuple[str, int | str]]:
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: not a CSV file in UTF-8: {error}") from None
    if not rows or [cell.strip().lower() for cell in rows[0]] != ["name", "label"]:
        raise UserError(f"{where}: its first line must be: name,label")
    pairs = []
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if any(cells):
            if len(cells) != 2 or not all(cells):
                raise UserError(f"{where}: line {number} is not a name and a label: {','.join(row)}")
            pairs.append((cells[0], cells[1]))
    numbers = all(label.lstrip("-").isdecimal() for _, label in pairs)
    return [(name, int(label)) for name, label in pairs] if numbers else pairs


def _from_json(where, content: bytes) -> list[tuple[str, int]] | None:
    try:
        values = json.loads(content)
        pairs = values["labels"]
        good = pairs is None or all(len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int for pair in pairs)
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise UserError(f'{where}: not of the form {{"labels": [["name", 0], ...]}} with whole numbers as labels')
    return None if pairs is None else [(name, label) for name, label in pairs]
