"""Starts runs of a study here or on a site, or prints what would be done."""

from contextlib import closing

from rich.console import Console

from ditscale.cost.hardware import Machine, this_machine
from ditscale.errors import UserError, count
from ditscale.rundir import FAILED, hold
from ditscale.studies.launch.launch import can_start, forecast_record, is_complete, launch, run_record, to_run
from ditscale.studies.launch.watch import say
from ditscale.studies.launchers import LOCAL, launcher as launcher_of, live_jobs
from ditscale.studies.launchers.protocol import Places, Queue, SiteSettings
from ditscale.studies.launchers.sharing import check_alone
from ditscale.studies.launchers.sites import load_site, site_machine
from ditscale.studies.plan.plan import check_limits, plan_rows
from ditscale.studies.spec.file import Spec
from ditscale.studies.spec.inputs import check_inputs, check_writable
from ditscale.studies.spec.phases import in_order
from ditscale.studies.spec.spec import PlannedRun
from ditscale.training.checkpoint.branch import why_not_yet

Phases = list[tuple[str | None, list[PlannedRun]]]                             # names, and runs of each


def start(spec: Spec, runs: list[PlannedRun], launcher: str | None, site_path: str | None, console: Console, fresh: bool = False) -> bool:
    """Starts what is missing; False if a run that was started here failed.

    Args:
        launcher: a name of launchers.MODULES, or print; None for the site's, or without a site this machine.
        site_path: the site's file, None for none.
        fresh: whether no run is forked from a warm process.
    """
    site = load_site(site_path) if site_path else None
    kind = site.launcher if site else LOCAL
    _check_choice(launcher, site, kind, site_path)
    chosen = launcher_of(kind)
    check_inputs(runs)
    if kind != LOCAL:
        check_alone(runs, kind)
    machine = this_machine()
    if spec.limits:
        check_limits(spec, plan_rows(runs, machine))
    phases = in_order(spec, runs)
    if launcher == "print":
        for name, group in phases:
            if name:
                say(console, f"# phase {name}")
            _print(spec, group, site, chosen, machine, console)
        return True
    is_queue = hasattr(chosen, "submit")
    where = [] if is_queue else [chosen.places(site, group, machine) for _, group in phases]  # errors in a later phase are reported now
    check_writable(spec.directory)
    for planned in runs:
        if planned.run.has_damaged_record():                                   # also of finished runs, which are not started
            planned.run.create(run_record(spec, planned))
    if is_queue:
        _submit_phase(spec, phases, chosen, site, machine, console)
        return True
    with closing(chosen):
        if fresh:
            chosen.close()
        return _run_phases(spec, phases, where, machine, console)


def failed_runs(spec: Spec, runs: list[PlannedRun], limit: int, console: Console) -> list[PlannedRun]:
    """The failed runs without a job, except those that failed ``limit`` times, which are printed."""
    jobs, again = live_jobs(spec), []
    for planned in runs:
        status = planned.run.status()
        if status["state"] != FAILED or planned.run_id in jobs:
            continue
        if status.get("failures", 1) < limit:
            again.append(planned)
        else:
            say(console, f"left: {planned.run_id} failed {count(status.get('failures', 1), 'time')}, last: {status['reason']}")
    if not again:
        say(console, f"{spec.name}: no failed run to launch again")
    return again


def _run_phases(spec: Spec, phases: Phases, where: list[Places], machine: Machine, console: Console) -> bool:
    """One after the other, each at its places, up to one that is not done; whether all are."""
    for number, ((name, group), places) in enumerate(zip(phases, where), start=1):
        if name:
            say(console, f"phase {name}: {count(len(group), 'run')}")
        if not launch(spec, group, places, machine, console):
            if waiting := phases[number:]:
                say(console, f"phase {name} is not done; waiting for it: {', '.join(later for later, _ in waiting)}")
            return False
    return True


def _submit_phase(spec: Spec, phases: Phases, queue: Queue, site: SiteSettings, machine: Machine, console: Console) -> None:
    """The first phase that is not done, as queues have no phases."""
    now = next((number for number, (_, runs) in enumerate(phases) if not all(map(is_complete, runs))), len(phases) - 1)
    _submit(spec, phases[now][1], queue, site, machine, console)
    if waiting := phases[now + 1:]:
        later = ", ".join(f"{name} ({count(len(runs), 'run')})" for name, runs in waiting)
        say(console, f"phase {phases[now][0]}; {later} to be launched when it is done")


def _submit(spec: Spec, runs: list[PlannedRun], queue: Queue, site: SiteSettings, machine: Machine, console: Console) -> None:
    """Submits every run that is not done, has no job and is not active here, and prints the jobs.

    Raises:
        UserError: the queue refuses (with its message), or another launch of this study is submitting.
    """
    folder = spec.directory / queue.folder
    folder.mkdir(exist_ok=True)
    with hold(folder / "lock") as mine:
        if not mine:
            raise UserError(f"another launch is submitting {spec.name} right now; try again")
        missing = [planned for planned in to_run(spec, runs, machine) if not planned.run.is_locked()]
        ready = [planned for planned in missing if can_start(planned)]
        there = site_machine(site, ready) if ready else None                   # None: of a kind that no forecast knows
        forecasts = {row.run_id: forecast_record(row, there) for row in plan_rows(ready, there)} if there else {}
        for line in queue.submit(spec, ready, site, lambda planned: planned.run.create(run_record(spec, planned, forecasts.get(planned.run_id)))):
            say(console, line)
        done = sum(is_complete(planned) for planned in runs)
        left = len(runs) - len(missing) - done
        say(console, f"{spec.name}: {count(len(runs), 'run')}, {done} done, {left} waiting or running, {len(ready)} submitted")
        _tell_of_branches(missing, console)


def _tell_of_branches(missing: list[PlannedRun], console: Console, before: str = "") -> None:
    """Which runs wait for their trunks; a queue is not asked to wait for them, as a trunk that its time limit ends is submitted again."""
    waiting = [planned for planned in missing if not can_start(planned)]
    for planned in waiting:
        say(console, f"{before}not yet: {planned.run_id}: {why_not_yet(planned.run, planned.config)}")
    if waiting:
        say(console, f"{before}launch again to start {count(len(waiting), 'branch', 'branches')} when the trunks are there")


def _check_choice(launcher: str | None, site: SiteSettings | None, kind: str, site_path: str | None) -> None:
    if launcher in (None, "print", kind):
        return
    if site is None:
        raise UserError(f"--launcher {launcher} needs --site FILE; sweeps/sites/ has examples")
    raise UserError(f"--launcher {launcher} does not fit {site_path}, which has launcher: {kind}")


def _print(spec: Spec, runs: list[PlannedRun], site: SiteSettings | None, launcher, machine: Machine, console: Console) -> None:
    """Every script and command, as text for a shell."""
    missing = to_run(spec, runs, machine)
    ready = [planned for planned in missing if can_start(planned)]
    for text in launcher.show(spec, ready, site, machine) if ready else ():
        say(console, text)
    say(console, f"# {spec.name}: {count(len(runs), 'run')}, {len(missing)} to start{_price(missing, site)}")
    _tell_of_branches(missing, console, "# ")


def _price(missing: list[PlannedRun], site: SiteSettings | None) -> str:
    """The plan's forecast for a site's GPUs, if it names one in the table of cost/hardware.py."""
    machine = site_machine(site, missing) if site and missing else None
    if not site or not machine:
        return ""
    hours = sum(row.accelerator_hours for row in plan_rows(missing, machine))
    price = f", {hours * site.price_per_gpu_hour:,.2f} at {site.price_per_gpu_hour:g} per hour" if site.price_per_gpu_hour else ""
    return f", about {hours:,.1f} GPU-hours{price}"
