"""Commands about models and weights: models, convert, export, ema."""

import click

from ditscale.cli.group import main
from ditscale.cli.weights import heads_option, like_option
from ditscale.errors import UserError
from ditscale.models.blocks import DEFAULT_DESIGN, DESIGNS


class Variants(click.Choice):
    """The names of the training variants, looked up when one is asked for: their options need pydantic, which takes its time."""

    def __init__(self):
        self.case_sensitive = True

    def __getattr__(self, name):
        if name != "choices":
            raise AttributeError(name)
        from ditscale.objectives import VARIANTS

        return tuple(VARIANTS)


@main.command()
@click.option("--resolution", default=32, show_default=True, type=click.IntRange(min=1),
              help="Input cells a side: 32 for the latents of 256-pixel images, 64 for 512.")
@click.option("--channels", default=4, show_default=True, type=click.IntRange(min=1))
@click.option("--classes", default=1000, show_default=True, type=click.IntRange(min=1))
@click.option("--block", default=DEFAULT_DESIGN, show_default=True, help=" or ".join(", ".join(DESIGNS).rsplit(", ", 1)) + ".")
@click.option("--variant", type=Variants(), help="With its default options.  [default: the baseline]")
@click.option("--format", "form", default="text", show_default=True, type=click.Choice(["text", "csv", "markdown"]))
def models(resolution, channels, classes, block, variant, form):
    """List every model: parameters, tokens, GMACs and GFLOPs of a forward, activations. 1 MAC = 2 FLOPs.

    For a variant: GMACs of training on one image, backward included, and their ratio to the baseline's.
    """
    from ditscale.cost import table
    from ditscale.objectives import BASELINE, VARIANTS

    variant = variant or BASELINE
    rows = table.model_rows(resolution=resolution, channels=channels, classes=classes, block=block, variant=variant)
    if not rows:
        raise UserError(f"no patch size of 2, 4, 8 divides {resolution} cells a side"
                        + (" into more than one token" if VARIANTS[variant].least_tokens > 1 else ""))
    click.echo({"text": table.as_text, "csv": table.as_csv, "markdown": table.as_markdown}[form](rows), nl=False)


@main.command()
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@like_option
@heads_option
def convert(source, target, like, heads):
    """Convert a DiT's weights: a .pt of train.py or a bare one, .safetensors, or a diffusers folder, to any of the three.

    TARGET's name decides: *.safetensors, *.pt (released layout), or else a folder for diffusers. With --like sit or repa, time and
    outputs are turned into ditscale's; without, numbers stay as they are. Nothing but tensors, numbers and text is unpickled.
    """
    from pathlib import Path

    from ditscale.models.convert import load_model, save_model

    if Path(target).exists():
        raise UserError(f"{target} exists already; give another name")
    if not Path(target).absolute().parent.is_dir():
        raise UserError(f"{target}: its folder does not exist")
    model = load_model(source, like=like, heads=heads)
    save_model(model, target)
    click.echo(f"{target}: {sum(p.numel() for p in model.parameters()):,} parameters")


@main.command()
@click.argument("run", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--images", metavar="N", type=int, help="The checkpoint at this number of images.  [default: the newest]")
@click.option("--average", default="ema", show_default=True, metavar="NAME",
              help="ema, ema-decay-0.999, ema-power-0.05 (what the run keeps), or masters: the last weights.")
def export(run, target, images, average):
    """Write a run's averaged weights for inference into TARGET.safetensors; training-only parts are left out."""
    from pathlib import Path

    from ditscale.rundir import RunDir
    from ditscale.training.checkpoint.weights import pick_checkpoint, saved_average, write_weights

    run = RunDir(run)
    checkpoint = pick_checkpoint(run, images, average)
    weights = saved_average(run, checkpoint, average)
    count = write_weights(run, weights, Path(target), {"checkpoint": checkpoint.name, "average": average})
    click.echo(f"{target}: {count:,} parameters, {average} of {checkpoint.name}")


@main.command()
@click.argument("run", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--length", required=True, type=float, help="Of the average, relative to the training time (EDM2's sigma_rel).")
@click.option("--images", metavar="N", type=int, help="At the checkpoint at this number of images.  [default: the newest]")
def ema(run, target, length, images):
    """Rebuild an average of any length after training, from the tracks of RUN (train.ema_lengths), as in EDM2.

    \b
    Example: a run with train.ema_lengths=[0.05, 0.1]
      ditscale ema runs/study/run-id ema-0.07.safetensors --length 0.07
    """
    from pathlib import Path

    from ditscale.rundir import RunDir
    from ditscale.training.checkpoint.checkpoint import images_of
    from ditscale.training.checkpoint.weights import pick_checkpoint, rebuild, write_weights

    run = RunDir(run)
    at = images_of(pick_checkpoint(run, images))
    weights, missed = rebuild(run, length, at)
    count = write_weights(run, weights, Path(target), {"length": length, "images": at, "missed": missed})
    click.echo(f"{target}: {count:,} parameters, length {length:g} at {at:,} images, its profile missed by {missed:.2%}")
