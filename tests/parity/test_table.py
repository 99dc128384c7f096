"""docs/parity.md is what ``table.py`` writes, and no row of it is beyond its tolerance."""

import re
from pathlib import Path

import pytest
import table
from reference import FOLDER, peer_files

PAGE = Path(__file__).resolve().parents[2] / "docs" / "parity.md"
ROW = re.compile(r"^\| `(\w+)` \| (.+) \| (\S+) \| (\S+) \|$", re.MULTILINE)


def test_every_row_of_the_page_is_within_its_tolerance():
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) > 100 and {name.rpartition("_")[0].split("_v")[0] for name, *_ in rows} == set(table.TITLES)
    assert all(float(difference) <= float(tolerance) for _, _, difference, tolerance in rows)


def test_the_page_begins_as_it_is_written_now():
    """But for torch's version: of ditscale's there is none, as a release need not change a row."""
    page, (before, after) = PAGE.read_text(), table.HEAD.split("{where}")
    assert page.startswith(before) and after in page and re.match(r"torch [\d.]+, fp32, CPU\.\n", page[len(before):])


def test_the_page_has_the_rows_that_are_written_now():
    """Of the peer that is done soonest, and of the files that the page is of."""
    if not peer_files("edm2_ema"):
        pytest.skip(f"no edm2_ema_*.npz in {FOLDER}; PARITY_DATA names the folder")
    page = {(name, quantity) for name, quantity, *_ in ROW.findall(PAGE.read_text())}
    written = {(name, quantity) for name, quantity, *_ in ROW.findall(table.section("edm2_ema", "EDM2's averages"))}
    files = {name for name, _ in page}
    assert written and {row for row in written if row[0] in files} <= page
