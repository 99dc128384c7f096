"""Labels of ImageNet's and Tiny-ImageNet's validation images as published, by WordNet id, in the order of the class folders.

::

    LOC_val_solution.csv                        Kaggle's: ImageId,PredictionString; the first word of the latter is the WordNet id
    ILSVRC2012_devkit_t12(.tar.gz)              data/ILSVRC2012_validation_ground_truth.txt: line i is for image i: a number from 1,
                                                whose WordNet id is in data/meta.mat. The numbers are not in the order of the ids!
    val_annotations.txt                         Tiny-ImageNet's: name, WordNet id and a box, with tabs between
"""

import io
import re
import tarfile
from pathlib import Path

import numpy as np

from ditscale.errors import UserError

KAGGLE, TINY = "LOC_val_solution.csv", "val_annotations.txt"
GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
VAL, TEST = (re.compile(rf"(.*/)?ILSVRC2012_{split}_\d{{8}}\.JPEG") for split in ("val", "test"))


def is_devkit(path: Path) -> bool:
    return path.is_dir() or path.name == GROUND_TRUTH or path.name.endswith((".tar", ".tar.gz", ".tgz"))


def from_devkit(path: Path) -> dict[str, str]:
    """WordNet id by image name, from the devkit's folder or archive, or from its ground truth with meta.mat next to it.

    Raises:
        UserError: it lacks one of the two files, or they are damaged.
    """
    found = _files(path.parent if path.name == GROUND_TRUTH else path)
    for name in (GROUND_TRUTH, META):
        if name not in found:
            raise UserError(f"{path}: no {name} in it; the two files of ILSVRC2012_devkit_t12 are needed: the ground truth's "
                            f"numbers are not in the order of class folders, {META} has the class of each")
    try:
        ids = _ids(found[META])
        numbers = [int(line) for line in found[GROUND_TRUTH].split()]
        return {f"ILSVRC2012_val_{number:08d}.JPEG": ids[value] for number, value in enumerate(numbers, start=1)}
    except Exception as error:                                                 # a damaged .mat may raise any error
        raise UserError(f"{path}: its {GROUND_TRUTH} or {META} is not ImageNet's: {type(error).__name__}: {error}") from None


def from_annotations(where, content: bytes) -> dict[str, str]:
    """WordNet id by image name, of Tiny-ImageNet's file."""
    table = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        cells = line.split("\t")
        if line.strip():
            if len(cells) < 2 or not all(cell.strip() for cell in cells[:2]) or cells[0] in table:
                raise UserError(f"{where}: line {number} is not an image's name and class with a tab between: {line[:60]}")
            table[cells[0].strip()] = cells[1].strip()
    return table


def _files(path: Path) -> dict[str, bytes]:
    """The two files' contents by name, anywhere in a folder or an archive."""
    try:
        if path.is_dir():
            return {name: file.read_bytes() for name in (GROUND_TRUTH, META) for file in sorted(path.rglob(name))[:1]}
        with tarfile.open(path) as tar:
            members = {Path(member.name).name: member for member in tar if member.isreg()}
            return {name: tar.extractfile(members[name]).read() for name in (GROUND_TRUTH, META) if name in members}
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{path}: cannot be read as ImageNet's devkit: {error}") from None


def _ids(content: bytes) -> dict[int, str]:
    """WordNet id by ILSVRC2012's number."""
    from scipy.io import loadmat

    synsets = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])
    return {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"])}
