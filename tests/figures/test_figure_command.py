"""``ditscale figure``: every script of ``analysis/`` as a command, with its options and its bytes."""

import importlib
import re
from pathlib import Path

import pytest

from ditscale.cli import main as cli

REPOSITORY = Path(__file__).parents[2]
DIT = REPOSITORY / "analysis" / "published" / "dit_table4_all_models.csv"
NAMES = sorted({path.stem for path in (REPOSITORY / "analysis").glob("*.py")} - {"report"})


def figure(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        cli(["figure", *map(str, arguments)])
    return ended.value.code


def test_help_lists_each_script_on_one_line(capsys):
    assert figure("--help") == 0
    listed = capsys.readouterr().out.partition("Figures:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == NAMES and all(len(line.split()) > 3 for line in listed)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_help_with_its_options(name, capsys):
    assert figure(name, "--help") == 0
    said = capsys.readouterr().out
    options = {"--out", "--where", *(f"--{option}" for option in importlib.import_module(f"ditscale.figures.plots.{name}").SCRIPT.options)}
    assert options <= set(re.findall(r"--[a-z-]+", said)) and "STUDY|FILE.csv" in said
    assert "%(" not in said and "%%" not in said


def test_an_unknown_name_suggests_the_nearest(capsys):
    assert figure("training-compute", DIT) == 2
    error = capsys.readouterr().err
    assert "there is no figure 'training-compute'; did you mean 'training_compute'?" in error and error.count("\n") == 1


def test_command_and_script_write_the_same_bytes(tmp_path, capsys):
    written = {}
    for name, options in ("gflops", ["--published", "maskdit,mdt"]), ("training_compute", ["--where", "size=XL", "--format", "svg"]):
        script = importlib.import_module(f"ditscale.figures.plots.{name}").main
        assert figure(name, DIT, "--out", tmp_path / "a", *options) == script([str(DIT), "--out", str(tmp_path / "b"), *options]) == 0
        written[name] = [path for path in (tmp_path / "a").iterdir() if path.stem == name]
        assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in written[name])
    assert {path.suffix for path in written["gflops"]} == {".png", ".svg", ".csv", ".txt"}
    assert ".png" not in {path.suffix for path in written["training_compute"]}
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "a" / "gflops.png")


def test_published_without_a_name_is_all_tables(tmp_path):
    assert figure("gflops", DIT, "--out", tmp_path, "--format", "svg", "--published") == 0
    assert "published" in (tmp_path / "gflops.txt").read_text()


@pytest.mark.parametrize("arguments, words", [
    (("gflops", "nowhere"), "error: nowhere is not a study directory"),
    (("gflops", DIT, "--format", "gif"), "error: --format 'gif': no such format"),
    (("gflops", DIT, "--unverified", "--where", "metrik=fid"), "did you mean 'metric'?"),
    (("sweeps", DIT), "Missing option '--over'"),
    (("scaling_law", DIT, "--form", "powerlaw"), "Invalid value for '--form'"),
])
def test_mistakes(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert figure(*arguments) == 2 and words in capsys.readouterr().err
