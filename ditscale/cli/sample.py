"""``ditscale sample``: images from a trained run."""

import os
import sys

import click

from ditscale.cli.group import main
from ditscale.cli.weights import as_run, heads_option, like_option, typed
from ditscale.errors import count


@main.command()
@click.argument("run", type=click.Path())
@click.argument("out", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--images", required=True, metavar="N", type=click.IntRange(min=1), help="Number of images.")
@click.option("--seed", metavar="S", type=click.IntRange(min=0), help="Image i is a function of S and i.  [default: the run's]")
@click.option("--checkpoint", metavar="IMAGES", type=int, help="The checkpoint at this number of images seen.  [default: the newest]")
@like_option
@heads_option
@click.option("--format", "form", type=click.Choice(["png", "npz"]), help="Format of the images.  [default: npz if OUT ends in .npz, else png]")
@click.option("--compile", "compiled", is_flag=True, help="Compile the model on a CPU too. Pays from some hundred images.  [default: as the run]")
def sample(run, out, overrides, images, seed, checkpoint, like, heads, form, compiled):
    """Generate images from the weights of RUN: OUT.npz in ADM's format, or a folder OUT of PNGs.

    Rerun an interrupted command to continue where it stopped.

    RUN may be a file of others' weights; to import it permanently, see import-run.

    KEY=VALUE overrides the run's section evaluation: sampler, sampling_steps, guidance_scale, labels (balanced, random, or a
    class), average (ema, ema-decay-0.999, length-0.07, masters), vae, batch, ... guidance=best takes the guidance
    that an evaluation of the checkpoint chose. Exit code 1: some images are not finite numbers.

    \b
    Examples:
      ditscale sample runs/study/run-id samples.npz --images 50000 guidance_scale=1.5
      ditscale sample runs/study/run-id owls --images 64 labels=24 vae=stabilityai/sd-vae-ft-ema

    On several GPUs: torchrun --nproc_per_node 8 --no-python ditscale sample ...
    """
    from ditscale.dotted import parse_override
    from ditscale.evaluation.best_guidance import resolved
    from ditscale.evaluation.sampling.sampleset import sample_set, settings_of
    from ditscale.evaluation.settings import placed
    from ditscale.training.checkpoint.weights import run_config

    command = typed("sample", run, out, *overrides, images=images, seed=seed, format=form, heads=heads) + " --compile" * compiled
    with as_run(run, like, heads, command) as found:
        config, overrides = placed(run_config(found), overrides)
        asked = dict(parse_override(text, "guidance_scale=1.5") for text in overrides)
        settings = settings_of(config, chosen := resolved(found, config, checkpoint, asked), run)
        if "guidance_scale" in chosen and "guidance_scale" not in asked and os.environ.get("RANK", "0") == "0":
            click.echo(f"guidance scale {chosen['guidance_scale']:g}, as searched by `ditscale evaluate`")
        if seed is None:
            seed = config.evaluation.seed if config.evaluation else 0
        broken = sample_set(found, out, settings, images=images, seed=seed, checkpoint=checkpoint, form=form, compiled=compiled,
                            config=config, say=click.echo)
    if broken:
        have = "has" if len(broken) == 1 else "have"
        click.echo(f"error: {len(broken):,} of {count(images, 'image')} {have} values that are not finite numbers, written as 0; the "
                   f"first is image {broken[0]}. The weights have diverged, or the sampler's settings are extreme", err=True)
        sys.exit(1)
