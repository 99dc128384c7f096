"""What a user reads after a mistake: one clean phrase, without the words of a library."""

import json
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from ditscale.cli import main
from ditscale.data.latent_sources.base import label_array
from ditscale.errors import UserError, count


def said(*words, code=2):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


def test_files_that_are_something_else(tmp_path):
    empty, binary, text = tmp_path / "empty.yaml", tmp_path / "x.npy", tmp_path / "ok.yaml"
    empty.touch()
    np.save(binary, np.full(9, 200, np.uint8))
    text.write_text("a: 1\nb: 2\nc: [1, 2, 3]\n")
    assert said("plan", empty) == f"error: {empty} is empty; it should hold keys and values\n"
    assert said("plan", binary) == f"error: {binary}: not a text file\n"
    assert said("report", text) == f"error: {text} is not a CSV of scores\n"
    missing = tmp_path / "nope.npy"
    with pytest.raises(UserError, match=f"^--labels {missing}: no such file$"):
        label_array(missing)


def test_no_such_run(tmp_path):
    nope = tmp_path / "nope"
    assert said("sample", nope, tmp_path / "out", "--images", 4) == f"error: {nope}: no such run\n"
    nope.mkdir()
    assert said("sample", nope, tmp_path / "out", "--images", 4) == f"error: {nope} is not a run directory: it has no run.json\n"


@pytest.fixture
def imported(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps({"format": 1, "config": {"imported": {"like": "dit"}}}))
    return tmp_path / "runs"


def test_a_study_of_imported_runs_alone(imported):
    assert said("report", imported) == (f"error: {imported} has no run with scores of its own training: it holds imported weights alone; "
                                        "`ditscale compare` takes them\n")


def test_a_warning_is_printed_once():
    @main.command("warns-twice", hidden=True)
    def command():
        for _ in range(2):
            with warnings.catch_warnings():                                    # as in numpy: Python then forgets what it has shown
                warnings.simplefilter("always")
                warnings.warn_explicit("a run is left out", UserWarning, main.callback.__code__.co_filename, 1)

    try:
        assert said("warns-twice", code=0) == "warning: a run is left out\n"
    finally:
        main.commands.pop("warns-twice")


def test_counts():
    assert [count(1, "run"), count(1200, "run"), count(1, "class", "classes"), count(3, "class", "classes")] == [
        "1 run", "1,200 runs", "1 class", "3 classes"]
