"""Trackio, in its SQLite file (``TRACKIO_DIR``), or at ``TRACKIO_SPACE_ID`` or ``TRACKIO_SERVER_URL``."""

import contextlib
import io
import os
import warnings

import trackio

from ditscale.errors import UserError
from ditscale.studies.mirror.mirror import Point, RunFacts


class Mirror:
    ERRORS = (OSError, RuntimeError, ValueError)

    def __init__(self, study: str):
        self.study = study
        remote = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
        folder = os.path.abspath(os.environ["TRACKIO_DIR"]) if os.environ.get("TRACKIO_DIR") else "its own folder"
        self.is_remote, self.place = bool(remote), f"{remote or folder} {study}"
        self.hint = f"Trackio: look with `trackio show --project {study}`"

    def has(self, name: str) -> bool | None:
        if self.is_remote:
            return None
        try:
            return any(run.name == name for run in trackio.Api().runs(self.study))
        except ValueError:                                                     # the project does not exist
            return False

    def send(self, name: str, facts: RunFacts, points: list[Point], sent: int) -> None:
        # It reports what it could not store only in warnings.
        with warnings.catch_warnings(record=True) as problems, contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("always")
            trackio.init(project=self.study, name=name, config={**facts.config, "passports": facts.passports},
                         resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False)
            for point in points:
                trackio.log(point.values, step=point.images_seen)
            trackio.finish()
        if lost := [str(problem.message) for problem in problems if issubclass(problem.category, UserWarning)]:
            raise UserError(f"--to trackio: {lost[0]}")
