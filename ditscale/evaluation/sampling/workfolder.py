"""The work folder next to a set of images, with its parts until all are made: ``.samples.partial`` for ``samples``.

A part is complete once its ``part-000000.json`` exists, which has the numbers of unusable images. ``plan.json`` describes the
set.
"""

import json
import os
import shutil
from pathlib import Path

from ditscale.config import SamplingConfig
from ditscale.errors import UserError
from ditscale.rundir import write_json
from ditscale.writing import writing

DEFAULTS = SamplingConfig(sampling_steps=1).model_dump(mode="json", exclude={"sampling_steps"}) | {"compiled": False}


class WorkFolder:
    """The parts of ``images`` images, ``batch`` per part."""

    def __init__(self, out: Path, images: int, batch: int):
        self.path, self.images, self.batch = out.with_name(f".{out.name}.partial"), images, batch
        self.parts = -(-images // batch)

    def open(self, plan: dict) -> None:
        """Creates the folder, or continues with it.

        Raises:
            UserError: it belongs to a set with other settings, or cannot be written.
        """
        plan_file = self.path / "plan.json"
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            if not plan_file.exists():
                write_json(plan_file, plan)
        refuse_other(self.path, read_note(plan_file) or {}, plan)

    def writing(self):
        """Turns write errors in this block (a full disk, no permission) into UserError."""
        return writing(self.path)

    def positions(self, part: int) -> range:
        """The numbers of a part's images."""
        return range(part * self.batch, min((part + 1) * self.batch, self.images))

    def has(self, part: int) -> bool:
        return self._mark(part).exists()

    def mark(self, part: int, nan_images: list[int]) -> None:
        """Marks a part as complete: its images are on disk."""
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
    """The description of a set or of its work folder; None if there is none."""
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def refuse_other(place: Path, existing: dict, plan: dict) -> None:
    """Raises UserError if existing data was made with other settings than planned: each differing key with both values.

    Data from an older version has no entry for later options: they count as their default.
    """
    existing = DEFAULTS | existing
    differs = [f"{key} {existing.get(key)}, now {value}" for key, value in plan.items() if existing.get(key) != value]
    if differs:
        raise UserError(f"{place}: contains images made with other settings: {'; '.join(differs)}. Give another OUT, or delete it")
