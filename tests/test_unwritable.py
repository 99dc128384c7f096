"""A place that cannot be written is one line, exit code 2, and nothing half-written."""

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from ditscale.cli import main
from ditscale.errors import UserError
from ditscale.evaluation.evaluate import Sheet
from ditscale.models.convert import save_model
from ditscale.models.dit import DiT
from ditscale.rundir import RunDir
from ditscale.training.trackers import log_score
from ditscale.writing import check_writable, writing, written_whole


def refused(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.output, result.exception)
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0] == result.output.splitlines()[-1]
    return errors[0]


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "dit.pt"
    save_model(DiT(input_size=4, patch_size=2, in_channels=4, hidden_size=64, depth=1, num_heads=1, num_classes=5), path)
    return path


@pytest.mark.parametrize("name", ["y.safetensors", "y.pt", "y"])
def test_convert_to_a_place_that_cannot_be_written(weights, name):
    assert refused("convert", weights, f"/proc/{name}", "--heads", 1) == f"error: /proc/{name} cannot be written: No such file or directory"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("No space left on device")])
def test_a_full_disk_leaves_nothing(weights, tmp_path, monkeypatch, failure):
    def fill(state, path):
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", fill)
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out.pt"
    assert refused("convert", weights, out, "--heads", 1) == f"error: {out} cannot be written: No space left on device"
    assert sorted(tmp_path.iterdir()) == before


def test_errors_of_safetensors_are_write_errors_too():
    with pytest.raises(UserError, match="^/proc/x.safetensors cannot be written: "), writing("/proc/x.safetensors"):
        save_file({"a": torch.zeros(1)}, "/proc/x.safetensors")
    with pytest.raises(ZeroDivisionError), writing("x"):
        1 / 0                                                                  # noqa: B018


def test_a_file_appears_whole(tmp_path):
    with pytest.raises(KeyError), written_whole(tmp_path / "x") as aside:
        aside.write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with written_whole(tmp_path / "x") as aside:
        aside.write_text("all")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "all"


def test_scores_and_samples_of_a_run_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    sheet = Sheet()
    list(sheet.keeping([(torch.zeros(1), torch.zeros(1, 1, 2, 2), torch.zeros(1))]))
    with pytest.raises(UserError, match=r"file/samples/x.npz cannot be written: Not a directory$"):
        sheet.write(tmp_path / "file" / "samples" / "x.npz")
    with pytest.raises(UserError, match=r"file/run/evals.jsonl cannot be written: Not a directory$"):
        log_score(RunDir(tmp_path / "file" / "run"), {"images_seen": 64, "metric": "fid", "score": 1.0})


def test_a_report_that_cannot_be_written(repository, tmp_path):
    (tmp_path / "out" / "table.csv").mkdir(parents=True)
    said = refused("report", repository / "analysis" / "published" / "dit_table4_all_models.csv", "--out", tmp_path / "out")
    assert said == f"error: {tmp_path / 'out' / 'table.csv'} cannot be written: Is a directory"


def test_missing_folders_are_made(weights, repository, tmp_path):
    """The same rule for every command that writes a file."""
    spec = repository / "sweeps" / "digits_demo.yaml"
    deep = tmp_path / "a" / "b"
    for words in (("convert", weights, deep / "c" / "x.safetensors", "--heads", 1), ("plan", spec, "--csv", deep / "d" / "plan.csv"),
                  ("figure", "table", repository / "analysis" / "published" / "dit_table4_all_models.csv", "--out", deep / "e")):
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, (result.output, result.exception)
    assert sorted(str(path.relative_to(deep)) for path in deep.rglob("*") if path.is_file()) == ["c/x.safetensors", "d/plan.csv", "e/table.csv"]


def test_a_place_is_checked_without_a_trace(tmp_path):
    (tmp_path / "file").write_text("as it was")
    for path in (tmp_path / "none" / "x", tmp_path / "file", tmp_path):
        check_writable(path)
    with pytest.raises(UserError, match=r"file/x/y cannot be written: Not a directory$"):
        check_writable(tmp_path / "file" / "x" / "y")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "as it was"
