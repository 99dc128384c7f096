"""The two formats of a set of images on disk: ADM's .npz, and a folder of PNGs. Both are written in parts.

::

    samples.npz             arr_0 uint8 (N, H, W, C), arr_1 int64 (N,): the labels. How it was made: samples.npz.json
    samples/                000000.png ...   labels.csv   sample.json
"""

import csv
import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from ditscale.errors import UserError
from ditscale.rundir import write_json
from ditscale.writing import written_whole


class PngFolder:
    """A folder of PNGs, made in the work folder and then renamed."""

    name = "png"

    def __init__(self, out: Path, work: Path, channels: int):
        if channels not in (1, 3):
            raise UserError(f"a PNG has 1 or 3 channels and these images have {channels}; --format npz supports any number")
        self.out, self.pictures = out, work / "pictures"
        self.note = out / "sample.json"

    def keep(self, part: int, first: int, images: np.ndarray) -> None:
        """Writes the images (n, C, H, W), numbered from ``first``, to the work folder."""
        self.pictures.mkdir(exist_ok=True)
        for number, image in enumerate(images, start=first):
            Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(self.pictures / _png(number))
        for number in range(first, first + len(images)):                       # flushed together after all are written
            with open(self.pictures / _png(number), "rb") as file:
                os.fsync(file.fileno())

    def finish(self, parts: int, labels: np.ndarray, note: dict) -> None:
        """Publishes the complete set under its name."""
        with open(self.pictures / "labels.csv", "w", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(("name", "label"))
            lines.writerows((_png(number), label) for number, label in enumerate(labels.tolist()))
        write_json(self.pictures / self.note.name, note)
        os.rename(self.pictures, self.out)


class Npz:
    """ADM's file, assembled from the parts row by row, as it may be larger than memory."""

    name = "npz"

    def __init__(self, out: Path, work: Path, channels: int):
        self.out, self.work = out, work
        self.note = out.with_name(f"{out.name}.json")

    def keep(self, part: int, first: int, images: np.ndarray) -> None:
        """Writes the images (n, C, H, W) of a part to the work folder."""
        with written_whole(self._part(part)) as aside, open(aside, "wb") as file:
            np.save(file, images.transpose(0, 2, 3, 1).copy())

    def finish(self, parts: int, labels: np.ndarray, note: dict) -> None:
        """Publishes the complete set under its name, uncompressed as in ADM."""
        shape = np.load(self._part(0), mmap_mode="r").shape[1:]
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *shape)}
        write_json(self.note, note)
        with written_whole(self.out) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part in range(parts):
                    member.write(np.load(self._part(part)).data)
            with archive.open("arr_1.npy", "w", force_zip64=True) as member:
                np.save(member, labels)

    def _part(self, part: int) -> Path:
        return self.work / f"part-{part:06d}.npy"


def form_of(out: Path, form: str | None) -> type[PngFolder] | type[Npz]:
    """The requested format, or by default that of OUT's ending.

    Raises:
        UserError: name and format contradict each other.
    """
    ends_in_npz = out.suffix == ".npz"
    if form and (form == "npz") != ends_in_npz:
        raise UserError(f"{out}: --format {form} " + ("needs a name that ends in .npz" if form == "npz" else
                                                       "writes a folder, so its name cannot end in .npz"))
    return Npz if ends_in_npz else PngFolder


def _png(number: int) -> str:
    return f"{number:06d}.png"
