"""Weights that are not what was saved: each command passes to the checkpoint before, or refuses the one that was named."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from ditscale.cli import main
from ditscale.training.checkpoint.folders import list_checkpoints

AVERAGES = ("ema", "ema-power-0.05", "ema-power-0.1", "masters")
TRACKS = {"train.ema_lengths": [0.05, 0.1]}


@pytest.fixture
def run(hand_run, digits_values):
    """A run of the digits with checkpoints at 320 and 640 images."""
    changes = {"data.path": digits_values["data"]["path"], "evaluation": digits_values["evaluation"] | {"samples": 8}} | TRACKS
    return hand_run(changes, checkpoints=range(64, 641, 64), averages=AVERAGES)


def turned(path):
    """The signs of the last 20 weights, as a bad disk or a bad copy may turn them; the header stays as it was."""
    data = bytearray(path.read_bytes())
    for place in range(1, 21):
        data[-4 * place + 3] ^= 0x80
    path.write_bytes(bytes(data))


DAMAGES = {"bits": turned, "empty": lambda path: path.write_bytes(b""), "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
           "hash gone": lambda path: (path.parent / "state.json").write_text('{"sha256": {}}'),
           "gone": lambda path: path.unlink(), "no state": lambda path: (path.parent / "state.json").unlink(),
           "odd state": lambda path: (path.parent / "state.json").write_text("[]")}


def newest(run, name="ema"):
    return list_checkpoints(run)[-1] / f"{name}.safetensors"


def call(*words):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output and "Error" not in done.output.replace("UserWarning", "")
    return done


def export(run, out, *options):
    return call("export", run.path, out, *options)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_one_is_taken_with_a_warning(run, tmp_path, damage):
    DAMAGES[damage](newest(run))
    done = export(run, tmp_path / "x.safetensors")
    assert done.exit_code == 0 and f"warning: checkpoint {newest(run).parent} is skipped: " in done.stderr
    assert done.stdout.endswith("ema of images-000000000576\n")
    exported, before = load_file(tmp_path / "x.safetensors"), load_file(list_checkpoints(run)[-2] / "ema.safetensors")
    assert before and all((exported[name] == before[name]).all() for name in before)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_that_was_named_is_refused(run, tmp_path, damage):
    DAMAGES[damage](newest(run))
    for words in (("export", run.path, tmp_path / "x.safetensors", "--images", 640),
                  ("sample", run.path, tmp_path / "x.npz", "--images", 4, "--checkpoint", 640),
                  ("evaluate", run.path, "--images", 640)):
        done = call(*words)
        assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
        assert done.stderr.startswith(f"error: {newest(run).parent} is damaged: ") and "at 64, 128, " in done.stderr
    assert not list(tmp_path.glob("x*")) and not run.evals.exists()


def test_samples_are_those_of_the_checkpoint_before(run, tmp_path):
    call("sample", run.path, tmp_path / "before.npz", "--images", 4, "--checkpoint", 576)
    turned(newest(run))
    done = call("sample", run.path, tmp_path / "x.npz", "--images", 4)
    assert done.exit_code == 0 and "is skipped: ema.safetensors does not match its sha256" in done.stderr
    before, found = (np.load(tmp_path / name)["arr_0"] for name in ("before.npz", "x.npz"))
    assert (before == found).all()
    assert json.loads((tmp_path / "x.npz.json").read_text())["checkpoint"] == "images-000000000576"


def test_scores_are_of_whole_checkpoints_alone(run):
    turned(newest(run))
    done = call("evaluate", run.path)
    assert done.exit_code == 0 and "is skipped" in done.stderr
    assert [json.loads(line)["images_seen"] for line in run.evals.read_text().splitlines()] == [576]
    DAMAGES["empty"](list_checkpoints(run)[0] / "ema.safetensors")
    call("evaluate", run.path, "--all")
    assert sorted(json.loads(line)["images_seen"] for line in run.evals.read_text().splitlines()) == list(range(128, 577, 64))


def test_scoring_in_training_leaves_a_damaged_one_out(run):
    from ditscale.evaluation.evaluate import Evaluator
    from ditscale.training.checkpoint.weights import run_config
    from ditscale.training.distributed import World

    for checkpoint in list_checkpoints(run)[:-2]:
        shutil.rmtree(checkpoint)
    DAMAGES["cut"](newest(run))
    with pytest.warns(UserWarning, match="images-000000000640 is skipped"):
        assert Evaluator(run_config(run), World(0, 1, "cpu")).evaluate_missing(run)
    assert [json.loads(line)["images_seen"] for line in run.evals.read_text().splitlines()] == [576]


def test_a_length_is_rebuilt_from_the_whole_snapshots(run, tmp_path):
    turned(list_checkpoints(run)[4] / "ema-power-0.05.safetensors")
    done = call("ema", run.path, tmp_path / "x.safetensors", "--length", 0.07)
    assert done.exit_code == 0 and done.stderr.count("is skipped: ema-power-0.05.safetensors") == 1
    (list_checkpoints(run)[5] / "ema-power-0.1.safetensors").unlink()
    done = call("ema", run.path, tmp_path / "z.safetensors", "--length", 0.07)
    assert done.exit_code == 0 and done.stderr.count("is skipped: ema-power-0.1.safetensors is missing") == 1
    for checkpoint in list_checkpoints(run):
        for track in (0.05, 0.1):
            (checkpoint / f"ema-power-{track}.safetensors").write_bytes(b"")
    done = call("ema", run.path, tmp_path / "y.safetensors", "--length", 0.07)
    assert done.exit_code == 2 and "has no snapshot of its tracks" in done.stderr.splitlines()[-1]


def test_nothing_whole_is_one_line(run, tmp_path):
    for checkpoint in list_checkpoints(run):
        DAMAGES["empty"](checkpoint / "ema.safetensors")
    done = export(run, tmp_path / "x.safetensors")
    assert done.exit_code == 2 and "has no checkpoint with an undamaged ema" in done.stderr.splitlines()[-1]
    assert export(run, tmp_path / "m.safetensors", "--average", "masters").exit_code == 0
    assert call("evaluate", run.path, "--all").exit_code == 2


@pytest.mark.parametrize("name, words", [("DiT-nano/4", "has shape"), ("DiT-atto/2", "has shape")])
def test_weights_of_another_model_than_the_record_says(run, tmp_path, name, words):
    record = run.read_record()
    record["config"]["model"]["name"] = name
    run.record.write_text(json.dumps(record))
    for words_ in (("export", run.path, tmp_path / "x.safetensors"), ("sample", run.path, tmp_path / "x.npz", "--images", 2)):
        done = call(*words_)
        assert done.exit_code == 2 and "the weights are not those of" in done.stderr and done.stderr.count("\n") == 1


def test_what_is_no_run(tmp_path):
    (tmp_path / "file.yaml").write_text("x: 1\n")
    for path, words in ((tmp_path / "file.yaml", "is not a run directory"), (tmp_path / "none", "no such run"), (tmp_path, "is not a run directory")):
        done = call("sample", path, tmp_path / "o.npz", "--images", 2)
        assert done.exit_code == 2 and words in done.stderr
