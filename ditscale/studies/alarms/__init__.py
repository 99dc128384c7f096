"""Warnings about running jobs, from comparison with their siblings in the study; ``status`` and the report show them."""

from ditscale.studies.alarms.early import early_warnings
from ditscale.studies.alarms.off_track import off_track_warnings
from ditscale.studies.alarms.sibling import Sibling


def warnings_of(runs: list[Sibling]) -> dict[str, str]:
    """The warnings about runs that have started and are not done, by run id."""
    found: dict[str, str] = {}
    for warn in (early_warnings, off_track_warnings):
        found |= warn(runs)
    return found
