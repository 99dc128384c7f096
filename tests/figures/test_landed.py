"""A study as a table without its run directories: every figure and the page are those of the run directories, or say what they need of them."""

import re
import shutil

import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.cli.figure import PLOTS
from ditscale.studies.table.study import Study

FIGURES = sorted(path.stem for path in PLOTS.glob("*.py") if path.stem != "__init__")
NEEDS_RUNS = {"loss_curves"}


@pytest.fixture(scope="module")
def studies(tmp_path_factory, benchmark_module):
    """The folder of a made-up study and one with its table alone."""
    folder = tmp_path_factory.mktemp("landed")
    made = benchmark_module("made_study")
    made.write_study(folder / "runs" / "s", ("DiT-femto/2", "DiT-pico/2", "DiT-nano/2"), ("baseline", "masked"), (0, 1), evaluations=2, log_lines=8)
    said("collect", folder / "runs" / "s", "--out", folder / "studies" / "s" / "table.csv")
    return folder / "runs" / "s", folder / "studies" / "s"


def said(*words):
    done = CliRunner().invoke(main, [*map(str, words)], env={"COLUMNS": "300"})
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    return done


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure(studies, tmp_path, name):
    words = ["--where", "variant=baseline", *(["--over", "seed"] if name == "sweeps" else [])]
    done = {where: said("figure", name, study, "--out", tmp_path / where, *words) for where, study in zip(("runs", "table"), studies)}
    if name in NEEDS_RUNS:
        assert done["runs"].exit_code == 0 and done["table"].exit_code == 2
        assert done["table"].stderr == f"error: {studies[1]} has only a table of scores, and this needs the run directories themselves (their run.json, " \
                                       "metrics.jsonl and evals.jsonl)\n"
        return
    assert done["table"].exit_code == done["runs"].exit_code and done["table"].stderr == done["runs"].stderr
    points = {path.name: path.read_text() for path in (tmp_path / "runs").glob("*.txt")}
    assert points == {path.name: path.read_text() for path in (tmp_path / "table").glob("*.txt")}


def test_the_page_is_that_of_the_runs_but_for_what_only_they_have(studies, tmp_path):
    pages = []
    for study in studies:
        assert said("report", study, "--out", tmp_path / study.parent.name).exit_code == 0
        text = (tmp_path / study.parent.name / "report.html").read_text()
        assert str(study.parent.parent) not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)
        pages.append(dict(re.findall(r"<section>\n<h2>(.*?)</h2>(.*?)</section>", text, flags=re.DOTALL)))
        assert ("Made from a table without run directories" in text) == (study is studies[1])
    of_runs, of_table = pages
    assert set(of_runs) - set(of_table) == {"Training losses"} and set(of_table) <= set(of_runs)
    differing = {name for name in of_table if of_table[name] != of_runs[name]}
    assert differing == {"Variants", "What was run", "Reproduce"}              # logged terms of the loss, all settings, the command
    assert "0123456789ab" in of_table["Reproduce"]


def test_two_recipes_are_compared(studies):
    runs, landed = studies
    ids = sorted(path.name for path in runs.iterdir())
    for at in ("", "@10240"):
        pairs = [said("compare", f"{study / ids[0]}{at}", f"{study / ids[-1]}{at}") for study in studies]
        assert pairs[0].exit_code == pairs[1].exit_code == 0
        assert pairs[0].stdout.replace(str(runs), "S") == pairs[1].stdout.replace(str(landed), "S")
    wrong = said("compare", landed / "DiT-none", landed / ids[0])
    assert wrong.exit_code == 2 and "has no run 'DiT-none'" in wrong.stderr
    both = [str(Study.load(study).multiplier("masked").sentence) for study in studies]
    assert both[0] == both[1]


def test_what_needs_run_directories_says_so(studies):
    landed = studies[1]
    for words in (("mirror", landed, "--to", "trackio"), ("predict", landed, "--target", "DiT-S/2"), ("validate", landed), ("status", landed),
                  ("figure", "sweeps", landed, "--where", "variant=baseline", "--over", "train.weight_decay")):
        done = said(*words)
        assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1 and "no table.csv" not in done.stderr, (words, done.stderr)
    copied = said("collect", landed, "--out", landed / "again.csv")
    assert copied.exit_code == 0 and (landed / "again.csv").read_bytes() == (landed / "table.csv").read_bytes()


def test_a_landed_study_has_one_place(studies, tmp_path):
    """A folder with a run directory is a study of runs, whatever table is next to it."""
    runs, landed = studies
    shutil.copytree(landed, tmp_path / "s")
    shutil.copytree(next(runs.iterdir()), tmp_path / "s" / next(runs.iterdir()).name)
    assert Study.load(tmp_path / "s").table()["run_id"].nunique() == 1
