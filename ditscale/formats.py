"""The versions of the files that ditscale writes. A file has its version under ``format``; without one it is the first.

A version increases if older code would misread the file; a new field that older code can ignore does not need it. Older files are
read, newer ones refused in one line. The field is not part of any hash (run id, passport, data content).

Data manifests are of version 2 where ditscale 0.2.0 would misread them: latents with facts that it does not know. Others stay of version 1.
"""

from ditscale.errors import UserError

KEY = "format"
RECORD, STATUS, STATE, MANIFEST, LINE, JOB = "run.json", "status.json", "state.json", "data manifest", "JSON lines", "job record"
FEATURES = "features' JSON"
VERSIONS = {RECORD: 1, STATUS: 1, STATE: 1, MANIFEST: 2, LINE: 1, JOB: 1, FEATURES: 1}    # LINE: each line of metrics.jsonl and evals.jsonl


class NewerFormat(UserError):
    """A file written by a later ditscale. It is not damaged, so it is never skipped and never rewritten."""


def stamped(kind: str, values: dict, version: int | None = None) -> dict:
    """The values of a file with its version in front: this ditscale's, or an older one that says all that is in it."""
    return {KEY: version or VERSIONS[kind], **{name: value for name, value in values.items() if name != KEY}}


def check_format(kind: str, values, where) -> None:
    """Refuses a newer file.

    Raises:
        NewerFormat: its version is later than this ditscale reads.
    """
    found = values.get(KEY) if isinstance(values, dict) else None
    if isinstance(found, int) and found > VERSIONS[kind]:
        raise NewerFormat(f"{where} has format {found}; this ditscale reads format {VERSIONS[kind]} and older: upgrade ditscale")
