"""WebDataset's labels: ``key.cls`` or ``key.json`` next to ``key.jpg``.

The key is a file's name up to its first dot.
"""

import json

from ditscale.data.sources.base import Request
from ditscale.errors import UserError

LABEL_KEYS = ("label", "cls", "class", "class_id", "class_index", "target")    # in a .json


def labels_beside(request: Request, images: list[str], files: list[str], read, in_folders: bool) -> tuple[list, int] | None:
    """The label of each image and the number of label files; None if no image has such a file next to it.

    Args:
        in_folders: the images lie in class folders, which are used if a .json has no label.
        read: returns the bytes of the named file.

    Raises:
        UserError: only some images have such a file, or a file has no label.
    """
    keys = [key_of(name) for name in images]
    for suffix, parse in ((".cls", _from_cls), (".json", _from_json)):
        there = {name for name in files if name.lower().endswith(suffix)}
        with_one = [key + suffix in there for key in keys] if there else []
        if not any(with_one):
            continue
        first = keys[with_one.index(True)] + suffix
        if suffix == ".json" and _label_key(request, first, read(first)) is None:
            if in_folders:
                return None
            found = ", ".join(sorted(_object(request, first, read(first)))[:8]) or "nothing"
            raise UserError(f"{request.path}: {first} holds {found} and no label ({', '.join(LABEL_KEYS)}); give --labels FILE, or "
                            "--unlabeled for images without labels")
        if not all(with_one):
            raise UserError(f"{request.path}: no label for {with_one.count(False)} of {len(images)} images, for example "
                            f"{images[with_one.index(False)]}: others have a {suffix} file next to them")
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{request.path}: more than one image of the key {twice}: which one to train on is ambiguous")
        return [parse(request, key + suffix, read(key + suffix)) for key in keys], len(keys)
    return None


def key_of(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _from_cls(request: Request, name: str, content: bytes) -> str:
    text = content.decode(errors="replace").strip()
    if not text or "\n" in text:
        raise UserError(f"{request.path}: {name} holds {text[:40]!r}; one class is needed")
    return text


def _from_json(request: Request, name: str, content: bytes):
    key = _label_key(request, name, content)
    value = _object(request, name, content).get(key)
    if type(value) not in (int, float, str):
        raise UserError(f"{request.path}: {name} has no class: {key or 'label'} is {value!r}")
    return str(value)


def _label_key(request: Request, name: str, content: bytes) -> str | None:
    """The key of the label. Raises UserError if several do and disagree."""
    found = {key: value for key, value in _object(request, name, content).items() if key in LABEL_KEYS}
    if len({str(value) for value in found.values()}) > 1:
        shown = ", ".join(f"{key} {value}" for key, value in found.items())
        raise UserError(f"{request.path}: {name} holds several labels, {shown}; give --labels FILE")
    return next(iter(found), None)


def _object(request: Request, name: str, content: bytes) -> dict:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{request.path}: {name} is not a JSON object")
    return value
