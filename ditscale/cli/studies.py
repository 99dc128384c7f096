"""Commands about a study: init, plan, config, launch, retry, stop, train, status, collect, mirror."""

import sys

import click

from ditscale.cli.group import collects_seldom, main
from ditscale.studies.launchers import MODULES
from ditscale.studies.mirror import MIRRORS


def of_a_study(command):
    """The arguments SPEC and KEY=VALUE."""
    overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
    return click.argument("spec_path", metavar="SPEC", type=click.Path())(overrides(command))


def planned(spec_path, overrides):
    """The study after applying KEY=VALUE, and its runs."""
    from ditscale.studies.spec.spec import expand, load_spec

    spec = load_spec(spec_path, overrides)
    return spec, expand(spec, spec_path)


def folder_of(study):
    """The directory of a study, given directly or by its SPEC."""
    from pathlib import Path

    from ditscale.studies.spec.spec import load_spec

    return Path(study) if Path(study).is_dir() else load_spec(study).directory


@main.command()
@click.argument("template", required=False)
def init(template):
    """Write the example study or site TEMPLATE into this folder for editing. Without TEMPLATE: list them."""
    from pathlib import Path

    from ditscale.studies.spec.templates import summaries, write_template

    if template is None:
        click.echo("\n".join([*summaries(), "", "Write one into this folder: ditscale init NAME"]))
        return
    path, commands = write_template(template, Path())
    click.echo("\n".join([f"written: {path}", *(["", "next:"] if commands else []), *(f"  {command}" for command in commands)]))


landed_option = click.option("--landed", metavar="FOLDER|FILE.csv", type=click.Path(),
                             help="Leave out the runs whose final evaluation is in this table of `ditscale collect`.")
site_option = click.option("--site", metavar="FILE", type=click.Path(), help="The cluster's file, see docs/clusters.md.")


def without_landed(spec_path, runs, landed):
    """The runs that are not in the table ``--landed`` (all without one), and whether branches are left out that cannot start."""
    if landed is None:
        return runs, False
    from ditscale.studies.launch.landed import not_landed

    return not_landed(runs, planned(spec_path, ())[1], landed, click.echo, spec_path)


def absent_of(spec, runs, overrides, spec_path):
    """``absent_trunks`` of these runs; its modules are loaded only where a branch is without its trunk."""
    there = {one.run_id for one in runs}
    if all(one.config.parent is None or one.config.parent.run in there for one in runs):
        return None
    from ditscale.studies.launch.trunks import absent_trunks

    return absent_trunks(spec, runs, overrides, spec_path)


@main.command()
@of_a_study
@click.option("--on", "device", metavar="NAME[:N]", help="Plan for N of these accelerators, for example H100:8.  [default: this machine]")
@site_option
@click.option("--price", metavar="X", type=click.FloatRange(min=0), help="Price per accelerator-hour.  [default: the site's]")
@click.option("--network", metavar="GBPS", type=click.FloatRange(min=0, min_open=True),
              help="Network of one accelerator in Gb/s, between nodes.  [default: usual for its kind]")
@click.option("--scaling", is_flag=True, help="Show the speed on 8 to 512 accelerators, and where more stop paying.")
@click.option("--probe", is_flag=True, help="First measure 20 steps of each distinct model and setting on this machine.")
@click.option("--power", metavar="STUDY|NOISE", help="Also show the smallest differences that will be found REAL, by the noise among seeds of a "
                                                       "finished STUDY, or a stated one such as 2%.")
@click.option("--csv", "as_csv", metavar="FILE", type=click.Path(dir_okay=False), help="Also write the rows to FILE.")
@click.option("--json", "as_json", metavar="FILE", type=click.Path(dir_okay=False), help="Also write the rows to FILE.")
@click.option("--wide", is_flag=True, help="Show a row per run, with every column.")
@landed_option
@collects_seldom
def plan(spec_path, overrides, device, site, price, network, scaling, probe, power, as_csv, as_json, wide, landed):
    """Show what the study SPEC will run and what it will cost. Starts no run.

    With --site: for the GPUs that FILE names (as many as its runs_at_once runs take, at least a node), at its price.
    """
    import math
    from dataclasses import replace

    from ditscale import terminal
    from ditscale.cost.hardware import gpu_links, named_machine, this_machine
    from ditscale.errors import UserError
    from ditscale.studies.launchers.sharing import slots
    from ditscale.studies.plan.encoding import encoding_lines
    from ditscale.studies.plan.plan import excess, plan_rows, saved_by_branches, write_rows
    from ditscale.studies.plan.probe import read_probes
    from ditscale.studies.plan.scaleout import scaling_curves
    from ditscale.studies.plan.show import show_plan
    from ditscale.studies.spec.branches import lone_trunk
    from ditscale.studies.spec.inputs import check_plan
    from ditscale.studies.spec.narrow import narrow_models
    from ditscale.studies.spec.rates import shared_rate

    spec, every_run = planned(spec_path, overrides)
    if power:
        from ditscale.studies.plan.power import given, power_table

        noise = given(power, spec.metric.name)
    runs, _ = without_landed(spec_path, every_run, landed)

    def show_power():                                                          # of the whole study: landed runs are compared too
        table, lines = power_table(spec, every_run, noise)
        terminal.console(terminal.NARROW).print(*filter(None, [table]), *lines, sep="\n")

    if not runs:
        if power:
            show_power()
        return
    cluster = None
    if site:
        from ditscale.studies.launchers.sites import load_site, site_machine

        cluster = load_site(site)
    machine = named_machine(device) if device else site_machine(cluster, runs) if cluster else this_machine()
    if machine is None:
        raise UserError(f"--site {site}: names no GPU that a forecast knows; add one with --on, for example --on H100:8")
    if price is None and cluster:
        price = cluster.price_per_gpu_hour
    for option, value in (("--price", price), ("--network", network)):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{option} {value} is not an amount; give a number")
    check_plan(runs)
    if network:
        if machine.kind != "gpu":
            raise UserError("--network is for accelerators and this machine has none; choose some with --on, for example H100:512")
        machine = replace(machine, links=gpu_links(machine.name, network))
    if probe:
        if device or site:
            option = f"--on {device}" if device else f"--site {site}"
            raise UserError(f"--probe measures this machine, and {option} plans for another; give only one of them")
        from ditscale.studies.plan.probing import probe_missing

        probe_missing(spec, runs, machine, terminal.console())
    rows, absent = plan_rows(runs, machine, read_probes(spec, machine)), absent_of(spec, runs, overrides, spec_path)
    lone = lone_trunk(spec.config, [one.point or {} for one in runs])
    notes = [absent and absent.planned(), lone, saved_by_branches(rows, runs), shared_rate(runs), narrow_models(runs)]
    show_plan(spec, rows, machine, slots(machine, runs), price, scaling_curves(runs, machine) if scaling else [],
              [*encoding_lines(runs, machine), *filter(None, notes)], wide=wide)
    if power:
        show_power()
    for path, form in ((as_csv, "csv"), (as_json, "json")):
        if path:
            write_rows(path, rows, form)
    if over := excess(spec, rows):
        click.echo(f"exceeds the study's limits: {over}; launch will refuse it without --over-limits", err=True)


@main.command()
@of_a_study
@click.option("--run", "run_id", metavar="ID", help="Show only this run.")
def config(spec_path, overrides, run_id):
    """Show the resolved config of each run of the study SPEC as YAML, with the source of each value.

    The source is the line of SPEC and its part (config, parameters, bundles, include, budgets, isoflop), the KEY=VALUE, or default.
    """
    from ditscale.studies.spec.resolved import config_lines, run_of_id

    spec, runs = planned(spec_path, overrides)
    click.echo("\n".join(config_lines(spec, run_of_id(runs, run_id, spec_path) if run_id else runs, spec_path)))


LAUNCHERS = click.Choice([*MODULES, "print"])


def where_to(command):
    """The options that choose where runs are started."""
    launcher = click.option("--launcher", type=LAUNCHERS, help="Default: the site's; local without one. print: show every script "
                                                               "and command, start nothing.")
    return launcher(site_option(command))


def fresh_option(command):
    """For runs that a fork does not suit."""
    return click.option("--fresh", is_flag=True, help="Start each run on this machine as a fresh process; else runs of one rank are forked "
                                                      "from one that has PyTorch loaded.")(command)


@main.command()
@of_a_study
@where_to
@fresh_option
@click.option("--phase", metavar="NAME", help="Launch only this phase, even if earlier phases are not done.")
@click.option("--over-limits", is_flag=True, help="Launch even if the study exceeds its limits.")
@landed_option
def launch(spec_path, overrides, launcher, site, fresh, phase, over_limits, landed):
    """Run what is missing of the study SPEC: resume stopped runs, leave finished ones alone.

    With --landed, the runs of an earlier part that are in its table are finished, also where their directories are gone.
    """
    from ditscale import terminal
    from ditscale.studies.launch.start import start
    from ditscale.studies.spec.phases import runs_of_phase

    spec, runs = planned(spec_path, overrides)
    if over_limits:
        spec = spec.model_copy(update={"limits": None})
    if phase is not None:
        runs = runs_of_phase(spec, runs, phase, spec_path)
    runs, lost = without_landed(spec_path, runs, landed)
    if absent := absent_of(spec, runs, overrides, spec_path):
        click.echo(absent.refused())
        runs, lost = [planned for planned in runs if planned not in absent.branches], True
    if runs and not start(spec, runs, launcher, site, terminal.console(), fresh) or lost:
        sys.exit(1)


@main.command()
@of_a_study
@where_to
@fresh_option
@click.option("--limit", type=click.IntRange(min=1), default=3, show_default=True, help="Leave out runs that failed this many times.")
def retry(spec_path, overrides, launcher, site, fresh, limit):
    """Launch the failed runs of the study SPEC again."""
    from ditscale import terminal
    from ditscale.studies.launch.start import failed_runs, start

    spec, runs = planned(spec_path, overrides)
    console = terminal.console()
    again = failed_runs(spec, runs, limit, console)
    if again and not start(spec, again, launcher, site, console, fresh):
        sys.exit(1)


@main.command()
@of_a_study
def stop(spec_path, overrides):
    """Ask the running runs of the study SPEC to save a checkpoint and end; `launch` resumes them.

    If KEY=VALUE selects all runs, their launcher on this host ends too.
    """
    from ditscale import terminal
    from ditscale.studies.launch.stop import stop as stop_runs

    spec, runs = planned(spec_path, overrides)
    all_of_it = len(runs) == len(planned(spec_path, ())[1])
    if not stop_runs(spec, runs, all_of_it, terminal.console()):
        sys.exit(1)


@main.command()
@click.argument("study", metavar="SPEC|STUDY", type=click.Path())
@click.option("--out", metavar="FILE.csv", required=True, type=click.Path(dir_okay=False))
@click.option("--add", is_flag=True, help="Keep the rows of runs that are in FILE.csv and not in STUDY.")
def collect(study, out, add):
    """Write every score of a study as a table; STUDY is its folder under runs/.

    With --add, a study that is run in parts has one table, whatever run directories are left: rows of runs in STUDY replace those in FILE.csv, all
    others stay.
    """
    from pathlib import Path

    from ditscale.errors import count
    from ditscale.studies.table import landing
    from ditscale.studies.table.ledger import left_out

    folder, path = folder_of(study), Path(out)
    rows, lines = landing.rows_of(folder, path.parent), []
    if add:
        found = landing.merged(rows, path)
        rows, lines = found.rows, landing.words(found, path, folder)
    landing.write(rows, path)
    click.echo("\n".join([*(lines or [f"{count(len(rows), 'row')}: {path}"]), *left_out(folder)]))


@main.command()
@click.argument("study", metavar="SPEC|STUDY", type=click.Path())
@click.option("--to", required=True, type=click.Choice(MIRRORS), help="Its package: pip install 'ditscale[NAME]'.")
def mirror(study, to):
    """Copy the metrics and scores of a study's runs to W&B, Trackio or MLflow; call it again to add new ones.

    The tracker's own environment variables decide where: WANDB_DIR (offline runs, to be uploaded by `wandb sync`), TRACKIO_DIR,
    MLFLOW_TRACKING_URI.
    """
    from ditscale.studies.mirror.mirror import mirror_study

    mirror_study(folder_of(study), to, click.echo)


@main.command()
@of_a_study
@fresh_option
def train(spec_path, overrides, fresh):
    """Train one run of the study SPEC in the foreground, with its log on the terminal.

    Each KEY=VALUE keeps the runs that have this value; if no run has it, it is set in every run. Exactly one run must remain.
    It is the run that launch would train, in the same directory. Exit code 0: done; 75: stopped early; 1: failed.
    """
    from ditscale import terminal
    from ditscale.cost.hardware import this_machine
    from ditscale.studies.launch.single import the_one, train_one
    from ditscale.studies.spec.inputs import check_inputs, check_writable

    spec, runs = planned(spec_path, overrides)
    run = the_one(spec, runs, spec_path)
    check_inputs([run])
    check_writable(spec.directory)
    sys.exit(train_one(spec, run, this_machine(), terminal.console(), fresh))


@main.command()
@of_a_study
@click.option("--watch", "seconds", metavar="[SECONDS]", type=click.FloatRange(min=0.5), is_flag=False, flag_value=5.0,
              help="Update every SECONDS (5) until all runs are done or Ctrl-C. Must come after SPEC.")
@click.option("--wide", is_flag=True, help="Show a row per run; by default runs that differ only in the seed share one.")
@landed_option
def status(spec_path, overrides, seconds, wide, landed):
    """Show each run of the study SPEC: state, images seen, speed, time left, last score, host or job, why it failed."""
    from ditscale.studies.launch.status import show_status, watch_status

    spec, runs = planned(spec_path, overrides)
    runs, _ = without_landed(spec_path, runs, landed)
    if not runs:
        return
    if seconds:
        watch_status(spec, runs, seconds)
    else:
        show_status(spec, runs, wide=wide)
