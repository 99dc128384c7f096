"""Each line reaches every tracker; TensorBoard shows the scores that evals.jsonl holds, and no others."""

import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ditscale.rundir import RunDir, keep_lines, read_lines
from ditscale.training.trackers import Trackers


def evaluation(images_seen, score, passport="aa11", **more):
    return {"images_seen": images_seen, "metric": "fid", "score": score, "passport_id": passport, "passport": {"metric": "fid"}, **more}


def curves(folder):
    """Tag -> [(step, value)] of a folder of event files."""
    board = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_metrics_go_to_the_file_whole_and_to_tensorboard_as_numbers(tmp_path):
    run = RunDir(tmp_path)
    trackers = Trackers(run)
    trackers.start_training()
    line = {"images_seen": 64, "loss/generative": 0.5, "lr": 0.25, "spike": "loss 0.5"}
    trackers.log_metrics(line)
    trackers.close()
    assert read_lines(run.metrics) == [line]
    assert curves(run.tensorboard) == {"images_seen": [(64, 64)], "loss/generative": [(64, 0.5)], "lr": [(64, 0.25)]}


def test_scores_stand_at_their_images_apart_by_passport(tmp_path):
    run, lines = RunDir(tmp_path), [evaluation(128, 4.0), evaluation(64, 8.0, error=0.5, floor=None, values={"kid": 0.25}),
                                    evaluation(64, 6.0, "bb22")]
    for line in lines:                                                            # each from a process of its own
        Trackers(run).log_evaluation(line)
    assert read_lines(run.evals) == lines
    assert curves(run.tensorboard / "evals") == {"eval/fid/aa11": [(64, 8.0), (128, 4.0)], "eval/fid/bb22": [(64, 6.0)],
                                                 "eval/fid_error/aa11": [(64, 0.5)], "eval/kid/aa11": [(64, 0.25)]}


def test_a_run_that_goes_back_shows_no_later_losses_and_scores(tmp_path):
    run = RunDir(tmp_path)
    for at in (64, 128), (128, 192):
        time.sleep(1)                                                            # files of one second have no order for TensorBoard
        keep_lines(run.metrics, lambda line: line["images_seen"] < at[0])
        keep_lines(run.evals, lambda line: line["images_seen"] < at[0])
        trackers = Trackers(run)
        trackers.start_training()
        if at[0] == 128:
            assert curves(run.tensorboard / "evals")["eval/fid/aa11"] == [(64, 64.0)]
        for images_seen in at:
            trackers.log_metrics({"images_seen": images_seen, "lr": float(at[0])})
            trackers.log_evaluation(evaluation(images_seen, float(at[0])))
        trackers.close()
    want = [(64, 64.0), (128, 128.0), (192, 128.0)]
    assert curves(run.tensorboard)["lr"] == want and curves(run.tensorboard / "evals")["eval/fid/aa11"] == want
    assert len(list((run.tensorboard / "evals").iterdir())) == 1
