"""The landed study of CIFAR-10: its page says what the commands print, from the tables in the repository alone."""

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.figures.kit import method_table, study_table

ROOT = Path(__file__).parents[2]
LANDED, PAGE = ROOT / "studies" / "cifar10_small", (ROOT / "docs" / "study_cifar10.md").read_text(encoding="utf-8")
METHODS = ("baseline", "tread", "sprint", "mdt", "masked", "discriminative")


def rows(columns: int) -> list[list[str]]:
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
    return [row for row in found if len(row) == columns]


def words(standing) -> str:
    one = standing.difference
    if one is None:
        return ""
    between = f" ({100 * one.interval.low:+.1f} to {100 * one.interval.high:+.1f})" if one.interval else ""
    return f"{100 * one.change:+.1f} %{between} {one.verdict}"


def test_the_table_of_methods_is_that_of_the_command():
    found = method_table.compare(study_table.read(LANDED))
    printed = {}
    for one in found:
        loss, score = one.results
        cells = ([f"{loss.standing.score:.4f}", "", f"{score.standing.score:.2f}", ""] if one.label == "baseline"
                 else [words(place) for result in (loss, score) for place in (result.standing, result.at_images)])
        printed[one.model.removeprefix("DiT-").removesuffix("/4"), one.label] = [f"{one.flops_ratio:.3g}", *cells]
    on_page = {(row[0], row[1]): [cell.replace("**", "") for cell in row[2:]] for row in rows(7) if row[1] in METHODS}
    assert on_page == printed and len(on_page) == 3 * len(METHODS)


def test_the_predictions_are_those_on_record():
    said = CliRunner().invoke(main, ["predict", str(LANDED), "--check"]).output
    inside = re.findall(r"(\d) of (\d) predicted values are inside", said)
    assert inside == [("5", "6")] and "| validation loss | 0.1975 | 0.1916 to 0.2036 |" in PAGE
    for name in ("0.20159", "0.20221", "0.20192", "8.6009", "8.7568", "9.7389"):
        assert f"actual {name} " in said and f"{float(name):.{4 if float(name) < 1 else 2}f}" in PAGE


@pytest.mark.parametrize("folder, least", [("", 57), ("rates", 24), ("sensitivity", 30), ("choices", 21)])
def test_every_run_of_the_study_files_is_landed(folder, least):
    table = study_table.read(LANDED / folder)
    assert table["run_id"].nunique() == least and table.groupby("run_id")["final"].max().all()
    assert not table["score"].isna().any() and (table["own_accelerator_hours"] > 0).all()


def test_the_report_needs_the_table_alone(tmp_path):
    """No run directory is there. The page can be sent by mail."""
    copy = tmp_path / "cifar10_small"
    copy.mkdir()
    for name in ("table.csv", "predictions.jsonl"):
        shutil.copy(LANDED / name, copy)
    done = CliRunner().invoke(main, ["report", str(copy)])
    assert done.exit_code == 0, done.output
    page = copy / "analysis" / "report.html"
    assert page.stat().st_size < 2e6 and (LANDED / "analysis" / "report.html").stat().st_size < 2e6
    assert (copy / "analysis" / "methods.md").read_text() == (LANDED / "analysis" / "methods.md").read_text()
    assert "Methods by each metric" in page.read_text(encoding="utf-8")
