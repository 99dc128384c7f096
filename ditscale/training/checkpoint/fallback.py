"""A run that goes back to an earlier checkpoint leaves nothing behind of what came after."""

from pathlib import Path

from ditscale.rundir import RUNNING, RunDir, keep_lines, read_lines
from ditscale.training.checkpoint.folders import images_of, list_checkpoints, point_latest, remove, sweep


def abandon(run: RunDir, last_good_images: int, taken_up: Path | None) -> None:
    """Remove the checkpoints, scores and sample sheets after ``last_good_images``, before the run goes on from ``taken_up``, or
    anew. Otherwise a later start would go on from one of them, and the checkpoints to come would count as scored.

    Scores go first, then the newest checkpoint: after a kill in here the run goes on from the newest that is left.
    """
    newer = [path for path in list_checkpoints(run) if images_of(path) > last_good_images]
    scores = [line for line in read_lines(run.evals) if line["images_seen"] > last_good_images]
    keep_lines(run.evals, lambda line: line["images_seen"] <= last_good_images)
    for sheet in run.samples.glob("images-*.npz"):
        if images_of(sheet.with_suffix("")) > last_good_images:
            sheet.unlink()
    point_latest(run, taken_up)
    sweep(run)
    for checkpoint in reversed(newer):
        remove(checkpoint)
    run.set_status(RUNNING, images_seen=images_of(taken_up) if taken_up else 0)
    print(_words(last_good_images, taken_up, newer, len(scores)), flush=True)


def _words(last_good_images: int, taken_up: Path | None, newer: list[Path], scores: int) -> str:
    start = f"goes on from the checkpoint at {images_of(taken_up):,} images" if taken_up else \
        f"starts anew from 0 images: there is no whole training state at or before {last_good_images:,} images"
    removed = [f"the checkpoint(s) at {' and '.join(f'{images_of(path):,}' for path in newer)} images"] if newer else []
    removed += [f"{scores} line(s) of evals.jsonl"] if scores else []
    return f"Training {start}; removed: {', '.join(removed) or 'nothing'}"
