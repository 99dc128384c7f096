"""Commands about a study: plan, launch, train, status."""

import sys

import click

from ditscale.cli.group import main


@main.command()
@click.argument("spec_path", metavar="SPEC", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def plan(spec_path, overrides):
    """Show what the study SPEC will run and what it will cost. Starts nothing."""
    from ditscale.cost.hardware import this_machine
    from ditscale.studies.launchers.local import slots
    from ditscale.studies.plan import plan_rows
    from ditscale.studies.show import show_plan
    from ditscale.studies.spec import expand, load_spec

    spec = load_spec(spec_path, overrides)
    runs, machine = expand(spec, spec_path), this_machine()
    show_plan(spec, plan_rows(runs, machine), machine, slots(machine, runs))


@main.command()
@click.argument("spec_path", metavar="SPEC", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def launch(spec_path, overrides):
    """Run what is missing of the study SPEC; stopped runs go on, finished ones are left alone."""
    from rich.console import Console

    from ditscale.cost.hardware import this_machine
    from ditscale.studies.inputs import check_inputs
    from ditscale.studies.launch import launch as launch_study
    from ditscale.studies.spec import expand, load_spec

    spec = load_spec(spec_path, overrides)
    runs = expand(spec, spec_path)
    check_inputs(runs)
    if not launch_study(spec, runs, this_machine(), Console(highlight=False)):
        sys.exit(1)


@main.command()
@click.argument("spec_path", metavar="SPEC", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def train(spec_path, overrides):
    """Train one run of the study SPEC in the foreground, its log on the terminal.

    Each KEY=VALUE keeps the runs that have this value; where none has, it is set in every run. One run must be left.
    It is the run that launch would train, in the same directory. Exit code 0: done; 75: stopped early; 1: failed.
    """
    from rich.console import Console

    from ditscale.cost.hardware import this_machine
    from ditscale.studies.inputs import check_inputs
    from ditscale.studies.single import the_one, train_one
    from ditscale.studies.spec import expand, load_spec

    spec = load_spec(spec_path, overrides)
    run = the_one(spec, expand(spec, spec_path), spec_path)
    check_inputs([run])
    sys.exit(train_one(spec, run, this_machine(), Console(highlight=False)))


@main.command()
@click.argument("spec_path", metavar="SPEC", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def status(spec_path, overrides):
    """Show each run of the study SPEC: state, images seen, speed, last score."""
    from ditscale.studies.show import show_status
    from ditscale.studies.spec import expand, load_spec

    spec = load_spec(spec_path, overrides)
    show_status(spec, expand(spec, spec_path))
