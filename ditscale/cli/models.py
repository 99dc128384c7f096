"""Commands about models and weights: models, convert, export, push, ema."""

import click

from ditscale.cli.group import LazyChoice, main
from ditscale.cli.weights import heads_option, like_option
from ditscale.errors import UserError
from ditscale.models.blocks import DEFAULT_DESIGN, DESIGNS


@main.command()
@click.option("--resolution", default=32, show_default=True, type=click.IntRange(min=1),
              help="Input cells per side: 32 for the latents of 256-pixel images, 64 for 512.")
@click.option("--channels", default=4, show_default=True, type=click.IntRange(min=1))
@click.option("--classes", default=1000, show_default=True, type=click.IntRange(min=1))
@click.option("--block", default=DEFAULT_DESIGN, show_default=True, help=" or ".join(", ".join(DESIGNS).rsplit(", ", 1)) + ".")
@click.option("--variant", type=LazyChoice("ditscale.objectives:VARIANTS"), help="The training variant, with its default options.  [default: the baseline]")
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
        raise UserError(f"no patch size of 2, 4, 8 divides {resolution} cells per side"
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

    from ditscale.models.convert import load, save_model
    from ditscale.training.checkpoint.weights import check_new
    from ditscale.writing import written_whole

    check_new(Path(target))
    model, header, notes = load(source, like=like, heads=heads)
    for note in notes:
        click.echo(note, err=True)
    with written_whole(target) as aside:
        save_model(model, aside, header)
    click.echo(f"{target}: {sum(p.numel() for p in model.parameters()):,} parameters")


at_images = click.option("--images", metavar="N", type=int, help="The checkpoint at this number of images.  [default: the newest]")
of_average = click.option("--average", metavar="NAME", default="ema", show_default=True,
                          help="ema, ema-decay-0.999, ema-power-0.05 (what the run keeps), length-0.07, or masters: the last weights.")
with_vae = click.option("--vae", metavar="NAME", help="Of diffusers' format: the autoencoder to put in, a folder or a name on the hub.")


@main.command()
@click.argument("run", type=click.Path())
@click.argument("target", type=click.Path())
@at_images
@of_average
@click.option("--format", "form", type=LazyChoice("ditscale.evaluation.export:FORMATS"), metavar="NAME",
              help="safetensors, released (DiT's state dict) or diffusers.  [default: by TARGET's name: .safetensors, .pt, or else diffusers]")
@with_vae
def export(run, target, images, average, form, vae):
    """Write a run's averaged weights for inference into TARGET; training-only parts are left out.

    TARGET is a file, X.safetensors or X.pt, or a folder with a model card (README.md): how the model was trained, what that cost, its
    scores with their passports. diffusers' folder is a DiTPipeline where the run is ddpm on latents, else the transformer alone.

    \b
    Examples:
      ditscale export runs/study/run-id weights.safetensors
      ditscale export runs/study/run-id my-dit --vae stabilityai/sd-vae-ft-ema
      ditscale export runs/study/run-id my-mdt --format safetensors
    """
    from ditscale.evaluation.export import export as write
    from ditscale.rundir import RunDir

    click.echo("\n".join(write(RunDir(run), target, form, average=average, images=images, vae=vae)))


@main.command()
@click.argument("run", type=click.Path())
@click.argument("repo")
@click.option("--send", is_flag=True, help="Send it. Without, what would be sent is listed.")
@click.option("--to-folder", metavar="DIR", type=click.Path(), help="Write it to this folder instead.")
@click.option("--private", is_flag=True, help="If the repository does not exist, create it as private.")
@at_images
@of_average
@click.option("--format", "form", type=LazyChoice("ditscale.evaluation.export:FORMATS"), metavar="NAME",
              help="safetensors, released or diffusers.  [default: diffusers where it can hold the model, else safetensors]")
@with_vae
def push(run, repo, send, to_folder, private, images, average, form, vae):
    """Export a run with its model card and send it to REPO (OWNER/NAME) on the Hugging Face hub; without --send only list what would be sent.

    Needs pip install 'ditscale[hub]' and a login (hf auth login). No path and no host name of this machine is in what is sent.
    """
    from ditscale.evaluation.push import push as run_push
    from ditscale.rundir import RunDir

    run_push(RunDir(run), repo, send=send, to_folder=to_folder, private=private, form=form, average=average, images=images, vae=vae,
             say=click.echo)


@main.command()
@click.argument("run", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--length", required=True, type=float, help="Length of the average relative to the training time (EDM2's sigma_rel).")
@click.option("--images", metavar="N", type=int, help="The checkpoint at this number of images.  [default: the newest]")
def ema(run, target, length, images):
    """Rebuild an average of any length after training, from the tracks of RUN (train.ema_lengths), as in EDM2.

    \b
    Example: a run with train.ema_lengths=[0.05, 0.1]
      ditscale ema runs/study/run-id ema-0.07.safetensors --length 0.07
    """
    from pathlib import Path

    from ditscale.rundir import RunDir
    from ditscale.training.checkpoint.checkpoint import images_of
    from ditscale.training.checkpoint.weights import check_new, pick_checkpoint, rebuild, write_weights
    from ditscale.writing import written_whole

    run = RunDir(run)
    at = images_of(pick_checkpoint(run, images))
    check_new(Path(target))
    weights, missed = rebuild(run, length, at)
    with written_whole(target) as aside:
        count = write_weights(run, weights, aside, {"length": length, "images": at, "missed": missed})
    click.echo(f"{target}: {count:,} parameters, length {length:g} at {at:,} images, profile error {missed:.2%}")
