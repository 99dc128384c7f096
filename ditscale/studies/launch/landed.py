"""Runs of a study whose results are in a landed table, the CSV of ``ditscale collect``: they count as done wherever their directories are."""

from collections.abc import Callable

from ditscale.cost.runs import training_flops
from ditscale.errors import UserError, count
from ditscale.evaluation.metrics.table import LOSS
from ditscale.studies.launch.launch import can_start
from ditscale.studies.spec.spec import PlannedRun
from ditscale.studies.table.landing import landed_file, read_text
from ditscale.training.schedule import due_images, validated_images


def not_landed(runs: list[PlannedRun], every_run: list[PlannedRun], landed: str, say: Callable[[str], None], source: str) -> tuple[list[PlannedRun], bool]:
    """The runs whose final evaluation is not in the table; says how many are. Branches whose trunk is only in the table are left out and counted, and
    whether there is one is returned too.

    Args:
        runs: the chosen ones. every_run: of the study as its file has it.
        landed: the table, or the folder that has it.

    Raises:
        UserError: there is no table of ``ditscale collect``, or it has no run of the study.
    """
    path = landed_file(landed)
    table = read_text(path)
    known = {planned.run_id for planned in (*runs, *every_run)}
    if not known & set(table["run_id"]):
        raise UserError(f"--landed {landed}: {path} has {count(table['run_id'].nunique(), 'run')}, none of them of {source}; give the table of this study")
    of_run = dict(list(table.groupby("run_id")))
    done = {planned.run_id: planned for planned in (*every_run, *runs) if planned.run_id in of_run and _is_whole(planned, of_run[planned.run_id])}
    rest = [planned for planned in runs if planned.run_id not in done]
    lost = [planned for planned in rest if planned.config.parent and planned.config.parent.run in done and not can_start(planned)]
    landed_here = len(runs) - len(rest)
    say(f"{count(len(runs), 'run')}: {landed_here} {'is' if landed_here == 1 else 'are'} in {path}, {len(rest) - len(lost)} to run")
    if lost:
        trunks = [done[name] for name in sorted({planned.config.parent.run for planned in lost})]
        flops = sum(training_flops(trunk.config, trunk.config.train.images) for trunk in trunks)
        say(f"left out: {count(len(lost), 'branch', 'branches')} of {count(len(trunks), 'trunk')} of {path} without the checkpoints to branch off from here. "
            f"Copy the trunks' run directories here, or launch without --landed to train the trunks again ({flops:.3g} training FLOPs)")
    return [planned for planned in rest if planned not in lost], bool(lost)


def _is_whole(planned: PlannedRun, rows) -> bool:
    """Whether the last score and the last validation loss that the run makes are in its rows, and one is marked final."""
    if not (rows["final"] == "True").any():
        return False
    due = {True: validated_images(planned.config), False: due_images(planned.config)}
    return all(not marks or str(max(marks)) in set(rows.loc[(rows["metric"] == LOSS) == is_loss, "images_seen"]) for is_loss, marks in due.items())
