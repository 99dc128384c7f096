"""What a user reads after a mistake: one clean phrase, without the words of a library."""

import json
import re
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ditscale.cli import main
from ditscale.data.beton import write_beton
from ditscale.data.inspect import describe, save_grid
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


def test_no_message_leaves_the_plural_to_the_reader(repository):
    """``count`` gives the right form, so no "run(s)"."""
    found = [f"{path.name}:{number}" for path in (repository / "ditscale").rglob("*.py") for number, line in enumerate(path.read_text().splitlines(), 1)
             if re.search(r"[ }]\w*\(s\)", line) and "prose(s)" not in line]
    assert not found


def test_one_of_a_kind(tmp_path):
    write_beton(tmp_path / "one.beton", {"image": np.zeros((1, 1, 4, 4), np.uint8), "label": np.zeros(1, np.int64)})
    lines = describe(tmp_path / "one.beton")
    assert lines[0].startswith(f"{tmp_path / 'one.beton'}: 1 sample, ") and "1 class, 1 to 1 sample each" in "\n".join(lines)
    assert save_grid(tmp_path / "one.beton", tmp_path / "one.png") == f"{tmp_path / 'one.png'}: 1 image, evenly spread over the file"
    (tmp_path / "images" / "cat").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / "cat" / "1.png")
    summary = said("data", "build", tmp_path / "images", tmp_path / "built.beton", "--size", 4, "--channels", 1, code=0)
    assert "1 image of 4 x 4 pixels, 1 channel, 1 class" in summary
