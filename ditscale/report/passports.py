"""The passports of a study's scores, and the fields in which they differ from the first."""

import json

import pandas as pd

from ditscale.evaluation.passport import SEED, differences
from ditscale.figures.kit import study_table
from ditscale.report import cards, page


def section(table: pd.DataFrame, of_study: dict[str, tuple[dict, int]]) -> str:
    """A sentence on whether the passports agree, then every passport, folded, those of this page first.

    Args:
        of_study: fields and number of evaluations of every passport in the study's files, including those not on the page.
    """
    counts = table["passport"].value_counts()
    stated = table.drop_duplicates("passport").set_index("passport")["passport_fields"]
    most_first = sorted(counts.index, key=lambda digest: (-counts[digest], digest))
    here = {digest: (json.loads(stated[digest] or "{}"), int(counts[digest])) for digest in most_first}
    held = here | {digest: found for digest, found in of_study.items() if digest not in here}
    parts = [page.paragraph(sentence({digest: fields for digest, (fields, _) in held.items()}))]
    for digest, (fields, count) in held.items():
        where = "" if digest in here else ", not on this page"
        shown = {name: value for name, value in fields.items() if name != SEED}
        content = cards.definitions(shown) if shown else page.note("The table does not have its fields.")
        parts.append(page.folded(f"Passport {digest}: {study_table.count(count, 'evaluation')}{where}", content))
    return page.section("How scores were measured", *parts)


def sentence(fields: dict[str, dict]) -> str:
    """Whether all scores can be compared; if not, where their passports differ from the first."""
    first, *others = fields
    if not others:
        return "All scores have one passport, so they can be compared: only the seed of the samples may differ."
    differing = []
    for other in others:
        found = differences(fields[first], fields[other])
        what = ", ".join(f"{name} {_shown(here)} and {_shown(there)}" for name, here, there in found) or "no stated field"
        differing.append(f"{first} and {other} differ in {what}")
    return f"Scores have {len(fields)} passports and cannot all be compared: {'; '.join(differing)}."


def _shown(value) -> str:
    """A field's value; an empty one says that there is none."""
    return "none" if value == "" else str(value)
