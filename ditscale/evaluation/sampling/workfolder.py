"""The folder next to a set of images that holds its parts until all are there: ``.samples.partial`` for ``samples``.

A part is there once ``part-000000.json`` is; it holds the numbers of images that are useless. ``plan.json`` says what is being
made.
"""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from ditscale.config import SamplingConfig
from ditscale.errors import UserError
from ditscale.rundir import write_json

DEFAULTS = SamplingConfig(sampling_steps=1).model_dump(mode="json", exclude={"sampling_steps"}) | {"compiled": False}


class WorkFolder:
    """The parts of ``images`` images, ``batch`` a part."""

    def __init__(self, out: Path, images: int, batch: int):
        self.path, self.images, self.batch = out.with_name(f".{out.name}.partial"), images, batch
        self.parts = -(-images // batch)

    def open(self, plan: dict) -> None:
        """Make the folder, or go on with it.

        Raises:
            UserError: it belongs to a set that is made otherwise, or cannot be written.
        """
        stands = self.path / "plan.json"
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            if not stands.exists():
                write_json(stands, plan)
        refuse_other(self.path, read_note(stands) or {}, plan)

    @contextmanager
    def writing(self):
        """What cannot be written in this block is the user's to mend: a full disk, a folder that is not theirs."""
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def positions(self, part: int) -> range:
        """The numbers of a part's images."""
        return range(part * self.batch, min((part + 1) * self.batch, self.images))

    def has(self, part: int) -> bool:
        return self._mark(part).exists()

    def mark(self, part: int, nan_images: list[int]) -> None:
        """Its images are on disk."""
        write_json(self._mark(part), nan_images)

    def images_done(self) -> int:
        marks = [name for name in os.listdir(self.path) if name.startswith("part-") and name.endswith(".json")]
        return sum(len(self.positions(int(name[5:-5]))) for name in marks)

    def nan_images(self) -> list[int]:
        return [number for part in range(self.parts) for number in json.loads(self._mark(part).read_text())]

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _mark(self, part: int) -> Path:
        return self.path / f"part-{part:06d}.json"


def read_note(path: Path) -> dict | None:
    """What a set, or its work folder, says of itself; None where it says nothing."""
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def refuse_other(place: Path, stands: dict, plan: dict) -> None:
    """Raise UserError where what stands at a place was made otherwise than planned: each key that differs, with both values.

    What an older version made says nothing of an option that it had not: that is at its default.
    """
    stands = DEFAULTS | stands
    differs = [f"{key} {stands.get(key)}, now {value}" for key, value in plan.items() if stands.get(key) != value]
    if differs:
        raise UserError(f"{place}: holds images made with other settings: {'; '.join(differs)}. Give another OUT, or delete it")
