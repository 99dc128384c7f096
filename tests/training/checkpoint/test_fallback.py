"""A run that goes back before a row of bad steps leaves nothing behind of what came after, and never loses what it goes back to."""

import os
import shutil
from pathlib import Path

import pytest

from ditscale.evaluation.evaluate import Evaluator
from ditscale.rundir import RunDir, append_line, read_lines
from ditscale.studies.launch.worker import work
from ditscale.training.checkpoint.checkpoint import abandon, list_checkpoints
from ditscale.training.checkpoint.folders import images_of
from ditscale.training.guard import TooManySkipped
from ditscale.training.loop import train

pytestmark = pytest.mark.usefixtures("in_repository")

OFTEN = {"train.precision": "fp32", "resources.skip_limit": 3, "train.checkpoint_every_images": 64}


def losses(run):
    return [(line["images_seen"], line["loss/generative"]) for line in read_lines(run.metrics)]


def scores(run):
    return [(line["images_seen"], line["score"]) for line in read_lines(run.evals)]


def state(run):
    return {path.name: path.read_bytes() for path in list_checkpoints(run)[-1].glob("*.safetensors")}


def test_stopped_after_going_back_and_started_again(make_run, world, poison, capsys):
    """Bad from step 6 to 8, a scored checkpoint at each step; back to 5, one step, a stop, a start: as if nobody had stopped it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, whole = make_run("whole", OFTEN)
    evaluator = Evaluator(config, world)
    assert train(config, whole, world, after_checkpoint=lambda: evaluator.evaluate_missing(whole))
    poison(6, 7, 8)
    config, run = make_run("run", OFTEN)

    def score():
        seen.append({"checkpoints": [images_of(path) for path in list_checkpoints(run)], "scored": [at for at, _ in scores(run)],
                     "sheets": len(list(run.samples.glob("*"))), "latest": (run.checkpoints / "latest").read_text().strip(),
                     "status": run.status()["images_seen"]})
        evaluator.evaluate_missing(run)
    seen = []
    with pytest.raises(TooManySkipped) as error:
        train(config, run, world, after_checkpoint=score)
    assert scores(run)[-1][0] == 448 and error.value.images == 320
    capsys.readouterr()

    seen = []
    assert not train(config, run, world, after_checkpoint=score, stop=lambda: True, last_good_images=320)
    marks = [64, 128, 192, 256, 320]
    assert seen == [{"checkpoints": marks, "scored": marks, "sheets": 5, "latest": "images-000000000320", "status": 320}]
    assert "continues from the checkpoint at 320 images; removed: the checkpoints at 384 and 448 images, 2 lines of evals.jsonl" \
        in capsys.readouterr().out
    assert images_of(list_checkpoints(run)[-1]) == 384 and not list(run.checkpoints.glob(".images-*"))

    assert train(config, run, world, after_checkpoint=score)
    assert losses(run) == losses(whole) and scores(run) == scores(whole) and state(run) == state(whole)
    board = EventAccumulator(str(run.tensorboard)).Reload()
    assert [event.step for event in board.Scalars("loss/generative")] == [seen for seen, _ in losses(run)]
    board = EventAccumulator(str(run.tensorboard / "evals")).Reload()
    [tag] = [name for name in board.Tags()["scalars"] if name.startswith("eval/fd_digits_cnn/")]
    assert [(event.step, event.value) for event in board.Scalars(tag)] == [(seen, pytest.approx(score)) for seen, score in scores(run)]


def test_no_checkpoint_before_the_bad_steps(make_run, poison, capsys):
    changes = {**OFTEN, "evaluation": None}
    _, whole = make_run("whole", changes)
    assert work(whole) == 0
    poison(1, 2, 3)
    _, run = make_run("run", changes)
    assert work(run) == 0
    assert losses(run) == losses(whole) and state(run) == state(whole)
    assert "Training restarts from 0 images: there is no complete training state at or before 0 images; removed: the checkpoints " \
           "at 64 and 128 images" in capsys.readouterr().out


def test_what_a_row_may_go_back_to_is_kept_between_log_lines(make_run, world, poison):
    """Bad from step 3 to 5, the next line would come at 8: the row is seen at a checkpoint, and the state at 2 is still there."""
    changes = {**OFTEN, "evaluation": None, "resources.log_every_images": 512, "resources.keep_checkpoints": 1}
    poison(3, 4, 5)
    config, run = make_run(changes=changes)
    with pytest.raises(TooManySkipped) as error:
        train(config, run, world)
    assert error.value.images == 128
    whole = [images_of(path) for path in list_checkpoints(run) if (path / "masters.safetensors").exists()]
    assert whole == [128, 192, 256]                                              # 64 was outdated before the row began
    assert train(config, run, world, last_good_images=128)
    assert [path.parent.name for path in run.checkpoints.glob("*/masters.safetensors")] == ["images-000000000640"]


def test_a_damaged_checkpoint_ahead_does_not_count_as_one_of_the_last(make_run, world):
    config, run = make_run(changes={"evaluation": None, "resources.keep_checkpoints": 1})
    steps = iter(range(1, 100))
    assert not train(config, run, world, stop=lambda: next(steps) >= 3)
    (list_checkpoints(run)[0] / "masters.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="is skipped"):
        assert not train(config, run, world, stop=lambda: True)
    assert [images_of(path) for path in list_checkpoints(run)] == [64, 192]
    assert (list_checkpoints(run)[0] / "optimizer.safetensors").exists()


class Killed(BaseException):
    """The process ended here."""


def by_hand(folder: Path) -> RunDir:
    run = RunDir(folder)
    for images in (64, 128, 192, 256):
        checkpoint = run.checkpoints / f"images-{images:012d}"
        checkpoint.mkdir(parents=True)
        for name in ("masters.safetensors", "optimizer.safetensors", "state.json"):
            (checkpoint / name).write_text(name)
        append_line(run.evals, {"images_seen": images})
        run.samples.mkdir(exist_ok=True)
        (run.samples / f"{checkpoint.name}.npz").touch()
    (run.checkpoints / "latest").write_text("images-000000000256\n")
    return run


@pytest.mark.parametrize("taken_up", [True, False])
def test_killed_while_it_goes_back(tmp_path, monkeypatch, taken_up):
    """Wherever the kill falls: what has a name is whole, no score outlives its checkpoint, and the next try ends it."""
    moments, finished = 0, False
    while not finished:
        run, calls = by_hand(tmp_path / str(moments)), iter(range(moments))
        target = run.checkpoints / "images-000000000064" if taken_up else None

        def dying(real):
            def act(*args, **kwargs):
                if next(calls, None) is None:
                    if real is shutil.rmtree:                                     # half of it is gone
                        next(Path(args[0]).iterdir()).unlink()
                    raise Killed
                return real(*args, **kwargs)
            return act
        with monkeypatch.context() as patch:
            for module, name in ((os, "rename"), (os, "replace"), (os, "fsync"), (os, "unlink"), (shutil, "rmtree")):
                patch.setattr(module, name, dying(getattr(module, name)))
            try:
                abandon(run, 64 if taken_up else 0, target)
                finished = True
            except Killed:
                moments += 1
        left = list_checkpoints(run)
        assert all(len(list(path.iterdir())) == 3 for path in left)
        assert [images_of(path) for path in left] == [64, 128, 192, 256][:len(left)]
        assert len(left) == 4 or {line["images_seen"] for line in read_lines(run.evals)} <= {images_of(path) for path in left}
        latest = run.checkpoints / "latest"
        assert not latest.exists() or (run.checkpoints / latest.read_text().strip()).is_dir()
        abandon(run, 64 if taken_up else 0, target)
        assert sorted(path.name for path in run.checkpoints.iterdir()) == (["images-000000000064", "latest"] if taken_up else [])
        assert len(read_lines(run.evals)) == len(list(run.samples.iterdir())) == int(taken_up)
    assert moments > 10
