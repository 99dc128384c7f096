"""Trains one run of a study in the foreground, with the study's directory, lock and launcher."""

from contextlib import closing

from rich.console import Console

from ditscale.cost.hardware import Machine
from ditscale.dotted import dotted_keys
from ditscale.errors import UserError
from ditscale.evaluation.metrics.table import LOSS
from ditscale.rundir import DONE, EVALUATION, FAILED, PREEMPTED, read_lines
from ditscale.studies.launch.launch import launch
from ditscale.studies.launch.watch import Log, say
from ditscale.studies.launchers.local import ThisMachine
from ditscale.studies.launchers.warm import ForkServer
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.preemption import EXIT_CODE


def the_one(spec: Spec, runs: list[PlannedRun], source: str) -> PlannedRun:
    """The only run.

    Raises:
        UserError: there are more; the message says how they differ and how to choose one.
    """
    if len(runs) == 1:
        return runs[0]
    configs = [dotted_keys(planned.config.model_dump(mode="json")) for planned in runs]
    named = dict.fromkeys([*spec.parameters, *sorted(spec.varied())])
    differing = {}
    for key in (key for name in named for config in configs for key in config if key == name or key.startswith(name + ".")):
        values = list(dict.fromkeys(str(config[key]) for config in configs if key in config))
        if len(values) > 1:
            differing[key] = values
    choice = " ".join(f"{key}={configs[0][key]}" for key in differing if key in configs[0])
    listed = "; ".join(f"{key}: {', '.join(values)}" for key, values in differing.items())
    raise UserError(f"{source} has {len(runs)} runs and train takes one. They differ in {listed}. "
                    f"Choose one, for example {choice}")


def train_one(spec: Spec, planned: PlannedRun, machine: Machine, console: Console, fresh: bool = False) -> int:
    """Train the run, its log on the terminal; the exit code: 0 done, 75 stopped early, 1 failed. Ctrl-C as for ``launch``.

    ``fresh``: the run is not forked from a warm process.
    """
    with closing(ForkServer()) as server:
        if fresh:
            server.close()
        launch(spec, [planned], ThisMachine(machine, [planned], server), machine, console, Log)
    status = planned.run.status()
    evals = [line for line in read_lines(planned.run.evals, *EVALUATION) if line["metric"] != LOSS]
    last = evals[-1] if evals else {}
    floor = f" (floor {last['floor']:.2f})" if last.get("floor") is not None else ""
    score = f", {last['metric']} {last['score']:.2f}{floor}" if last else ""
    reason = f" ({status['reason']})" if status["state"] == FAILED else ""
    say(console, f"{status['state']}: {status['images_seen']:,} images{score}, {planned.run.path}{reason}")
    return {DONE: 0, PREEMPTED: EXIT_CODE}.get(status["state"], 1)
