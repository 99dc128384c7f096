"""Start runs of a study where they are to run: here, on a hostfile's hosts, in SLURM; or print what would be done."""

import shlex
from pathlib import Path

from rich.console import Console

from ditscale.cost.hardware import Machine, dense_bf16_flops, gpu_links, this_machine
from ditscale.errors import UserError
from ditscale.rundir import DONE
from ditscale.studies.launch.launch import is_complete, launch, run_record, to_run
from ditscale.studies.launch.watch import say
from ditscale.studies.launchers.hosts import Hosts
from ditscale.studies.launchers.local import ThisMachine
from ditscale.studies.launchers.queue import FOLDER
from ditscale.studies.launchers.sbatch import render
from ditscale.studies.launchers.slurm import SUBMIT, arrays, submit
from ditscale.studies.plan.limits import check_limits
from ditscale.studies.plan.plan import plan_rows
from ditscale.studies.spec.inputs import check_inputs, check_writable
from ditscale.studies.spec.phases import first_open, in_order
from ditscale.studies.spec.site import Site, load_site
from ditscale.studies.spec.spec import PlannedRun, Spec

Phases = list[tuple[str | None, list[PlannedRun]]]                             # names, and runs of each


def start(spec: Spec, runs: list[PlannedRun], launcher: str | None, site_path: str | None, console: Console) -> bool:
    """Start what is missing; False when a run that was started here did not end well.

    Args:
        launcher: local, deepspeed, slurm or print; None for the site's, or this machine where no site is given.
        site_path: the site's file, None for none.
    """
    site = load_site(site_path) if site_path else None
    kind = site.launcher if site else "local"
    _check_choice(launcher, site, kind, site_path)
    check_inputs(runs)
    machine = this_machine()
    if spec.limits:
        check_limits(spec, plan_rows(runs, machine))
    phases = in_order(spec, runs)
    if launcher == "print":
        for name, group in phases:
            if name:
                say(console, f"# phase {name}")
            _print(spec, group, site, kind, machine, console)
        return True
    check_writable(spec.directory)
    for planned in runs:
        if planned.run.has_damaged_record():                                   # of finished runs too, which are not started
            planned.run.create(run_record(spec, planned))
    if kind == "slurm":
        _submit_phase(spec, phases, site, machine, console)
        return True
    launchers = [_places(site, group, machine) for _, group in phases]         # what is wrong with a later phase is said now
    for number, ((name, group), places) in enumerate(zip(phases, launchers), start=1):
        if name:
            say(console, f"phase {name}: {len(group)} runs")
        if not launch(spec, group, places, machine, console):
            if waiting := phases[number:]:
                say(console, f"phase {name} is not done; what comes after it waits: {', '.join(later for later, _ in waiting)}")
            return False
    return True


def _submit_phase(spec: Spec, phases: Phases, site: Site, machine: Machine, console: Console) -> None:
    """The first phase that is not done: SLURM's queue knows no phases."""
    now = min(first_open(phases, is_complete), len(phases) - 1)
    submit(spec, phases[now][1], site, machine, console)
    if waiting := phases[now + 1:]:
        later = ", ".join(f"{name} ({len(runs)} runs)" for name, runs in waiting)
        say(console, f"phase {phases[now][0]}; {later} to be launched when it is done")


def _check_choice(launcher: str | None, site: Site | None, kind: str, site_path: str | None) -> None:
    if launcher in (None, "print", kind):
        return
    if site is None:
        raise UserError(f"--launcher {launcher} needs --site FILE, which says how; sweeps/sites/ has examples")
    raise UserError(f"--launcher {launcher} does not go with {site_path}, whose launcher is {kind}")


def _places(site: Site | None, runs: list[PlannedRun], machine: Machine):
    return Hosts(site, runs) if site else ThisMachine(machine, runs)


def _print(spec: Spec, runs: list[PlannedRun], site: Site | None, kind: str, machine: Machine, console: Console) -> None:
    """Every script and command, as text for a shell."""
    missing = to_run(spec, runs, machine)
    if kind == "slurm":
        folder = spec.directory / FOLDER
        for array in arrays(spec, missing, site):
            say(console, f"# {folder / array.name}.sh\n{render(array, site, Path.cwd())}")
            say(console, f"# in {shlex.quote(str(folder))}:\n{shlex.join((*SUBMIT, f'{array.name}.sh'))}\n")
    else:
        launcher = _places(site, runs, machine)
        for number, planned in enumerate(missing):
            place, trained = launcher.places[number % len(launcher.places)], planned.run.status()["state"] == DONE
            say(console, str(launcher.command(planned, place, evaluates=trained)))
    say(console, f"# {spec.name}: {len(runs)} runs, {len(missing)} to start{_price(missing, site)}")


def _price(missing: list[PlannedRun], site: Site | None) -> str:
    """What the plan forecasts for a site's GPUs, where its gres names one that the table of cost/hardware.py knows."""
    peak = dense_bf16_flops(site.gres.upper()) if site else None
    if not peak:
        return ""
    machine = Machine("gpu", site.gres, site.gpus_per_node, peak, links=gpu_links(site.gres))
    hours = sum(row.accelerator_hours for row in plan_rows(missing, machine))
    price = f", {hours * site.price_per_gpu_hour:,.2f} at {site.price_per_gpu_hour:g} an hour" if site.price_per_gpu_hour else ""
    return f", about {hours:,.1f} GPU-hours{price}"
