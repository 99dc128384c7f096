"""The command group ``ditscale``. Each command is a few lines that call one part; heavy imports wait until they are needed."""

import sys

import click

from ditscale import __version__
from ditscale.errors import UserError


class Commands(click.Group):
    """A user's mistake is one line on stderr and exit code 2; Ctrl-C is exit code 130."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main():
    """Scaling studies of diffusion transformers: plan, launch, score and compare."""


@main.group(cls=Commands)
def data():
    """Build training data."""


@data.command("build")
@click.argument("source", type=click.Choice(["digits"]))
@click.argument("folder", type=click.Path())
def data_build(source, folder):
    """Write SOURCE as .beton files, and what scoring it needs, into FOLDER.

    digits: scikit-learn's 1,797 handwritten digits, a held-out part, and the feature network of fd_digits_cnn.
    """
    from pathlib import Path

    from ditscale.data.digits import build_digits

    click.echo(build_digits(folder))
    weights = Path(folder) / "digits_cnn.safetensors"
    if not weights.exists():
        from ditscale.evaluation.digits_cnn import train_digits_cnn

        accuracy = train_digits_cnn(Path(folder) / "train.beton", Path(folder) / "heldout.beton", weights)
        click.echo(f"{weights}: feature network trained, {accuracy:.1%} of the held-out digits right")


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


@main.command()
@click.option("--resolution", default=32, show_default=True, type=click.IntRange(min=1),
              help="Input cells a side: 32 for the latents of 256-pixel images, 64 for 512.")
@click.option("--channels", default=4, show_default=True, type=click.IntRange(min=1))
@click.option("--classes", default=1000, show_default=True, type=click.IntRange(min=1))
@click.option("--block", default="adaln_zero", show_default=True, help="adaln_zero, adaln, cross_attention or in_context.")
@click.option("--variant", default="baseline", show_default=True,
              type=click.Choice(["baseline", "masked", "mdt", "discriminative"]), help="With its default options.")
@click.option("--format", "form", default="text", show_default=True, type=click.Choice(["text", "csv", "markdown"]))
def models(resolution, channels, classes, block, variant, form):
    """List every model: parameters, tokens, GMACs and GFLOPs of a forward, activations. 1 MAC = 2 FLOPs.

    For a variant: GMACs of training on one image, backward included, and their ratio to the baseline's.
    """
    from ditscale.cost import table

    rows = table.model_rows(resolution=resolution, channels=channels, classes=classes, block=block, variant=variant)
    if not rows:
        raise UserError(f"no patch size of 2, 4, 8 divides {resolution} cells a side"
                        + (" into more than one token" if variant != "baseline" else ""))
    click.echo({"text": table.as_text, "csv": table.as_csv, "markdown": table.as_markdown}[form](rows), nl=False)


@main.command()
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
def convert(source, target):
    """Convert a DiT's weights: a released .pt, .safetensors, or a diffusers folder, to any of the three.

    TARGET's name decides: *.safetensors, *.pt (released layout), or else a folder for diffusers. Nothing is unpickled.
    """
    from pathlib import Path

    from ditscale.models.convert import load_model, save_model

    if Path(target).exists():
        raise UserError(f"{target} exists already; give another name")
    if not Path(target).absolute().parent.is_dir():
        raise UserError(f"{target}: its folder does not exist")
    model = load_model(source)
    save_model(model, target)
    click.echo(f"{target}: {sum(p.numel() for p in model.parameters()):,} parameters")


@main.command()
def doctor():
    """Say what this machine can do, what is missing, and the command that would mend it."""
    from ditscale.doctor import examine, show

    if not show(examine()):
        sys.exit(1)
