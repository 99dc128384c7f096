"""Every script on a CSV: what `ditscale collect` wrote gives the same table as the study itself."""

import pandas as pd
import pytest

from ditscale.errors import UserError
from ditscale.figures.kit import study_table
from ditscale.figures.plots import bubbles, gflops, table as table_csv
from ditscale.studies.table import csv_table


@pytest.fixture
def collected(study, tmp_path):
    """A study as `ditscale collect --out` writes it, each score from two sets of samples, one score missing."""
    table = study().rename(columns={"sample_seeds": "sample_seed"}).assign(passport="512345678901", sample_seed=0)
    table.loc[3, "score"] = float("nan")
    again = table.assign(sample_seed=1, score=table["score"] * 1.02)
    path = tmp_path / "study.csv"
    pd.concat([table, again], ignore_index=True).to_csv(path, index=False)
    return path


def test_a_collected_csv_is_the_study(collected, serve, tmp_path):
    written = pd.read_csv(collected, dtype={"passport": str}, keep_default_na=True).fillna({"sample_sheet": "", "passport_fields": ""})
    serve(written)
    of_study, of_csv = study_table.read(tmp_path), study_table.read(collected)
    pd.testing.assert_frame_equal(of_csv[of_study.columns], of_study, check_dtype=False)
    assert len(of_csv) == 48 and (of_csv["sample_seeds"] == 2).all() and of_csv["passport"].unique() == ["512345678901"]
    assert gflops.correlation(of_csv).value == gflops.correlation(of_study).value


def test_a_written_table_csv_is_read_again(collected, tmp_path):
    path, = table_csv.write(study_table.read(collected), tmp_path)
    pd.testing.assert_frame_equal(study_table.read(path).sort_values(table_csv.ORDER, ignore_index=True),
                                  study_table.read(collected).sort_values(table_csv.ORDER, ignore_index=True), check_dtype=False)


def test_scripts_take_a_csv_and_write_beside_the_shell(collected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert bubbles.main(["study.csv", "--where", "model=DiT-nano/2"]) == 0
    assert [path.name for path in sorted((tmp_path / "study-analysis").iterdir())] == [
        "bubbles.csv", "bubbles.png", "bubbles.svg", "bubbles.txt"]
    assert capsys.readouterr().out.splitlines()[0] == "study-analysis/bubbles.png"


def test_a_csv_with_a_fault_is_one_line(collected, tmp_path, capsys):
    good = pd.read_csv(collected, dtype=str, keep_default_na=False)
    path = tmp_path / "bad.csv"
    for change, message in (
        (lambda rows: rows.drop(columns=["model", "score"]), "has no column 'model', 'score'"),
        (lambda rows: rows.head(0), "has no evaluation"),
        (lambda rows: rows.assign(macs=["many", *rows["macs"][1:]]), "line 2: macs 'many' is not a number"),
        (lambda rows: rows.assign(images_seen=[*rows["images_seen"][:-1], ""]), "line 97: images_seen '' is not a number"),
        (lambda rows: rows.assign(train_flops=[*rows["train_flops"][:-1], "0"]), "line 97: train_flops '0' must be above 0"),
        (lambda rows: rows.assign(train_flops="0"), "line 2: train_flops '0' must be above 0; leave the field empty if it is unknown (95 "),
        (lambda rows: rows.assign(passport_fields="steps 4"), "line 2: passport_fields 'steps 4' is not a JSON object"),
        (lambda rows: rows.assign(model=""), "line 2: model '' is empty"),
        (lambda rows: rows.drop(columns=["run_id", "seed", "sample_seed"]), "lines 2 and 50: two scores of 'DiT-atto/8 baseline s0' at 80,000"),
        (lambda rows: rows.assign(final="perhaps"), "final 'perhaps' is neither True nor False"),
    ):
        change(good).to_csv(path, index=False)
        assert gflops.main([str(path), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    for text in (b"", b"\xff\xfe\x00", b'a,"b\n1,2'):
        path.write_bytes(text)
        with pytest.raises(UserError, match="is not a CSV of scores|lacks the columns"):
            study_table.read(path)


def test_a_passport_of_digits_stays_text(collected):
    assert csv_table.read(collected)["passport"].iloc[0] == "512345678901"
