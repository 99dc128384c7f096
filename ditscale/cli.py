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
    """Build, encode and inspect training data."""


@data.command("build")
@click.argument("source")
@click.argument("out", type=click.Path())
@click.option("--size", default=256, show_default=True, type=click.IntRange(1, 8192), help="Pixels a side.")
@click.option("--channels", default="3", show_default=True, type=click.Choice(["1", "3"]), help="1: greyscale, 3: RGB.")
@click.option("--split", metavar="NAME", help="Which part, where SOURCE has several, as train and test.")
@click.option("--labels", metavar="FILE", type=click.Path(),
              help="Classes of images that lie flat: .csv (first line name,label), StyleGAN's and EDM's .json; .npy for arrays.")
@click.option("--on-error", default="fail", show_default=True, type=click.Choice(["fail", "skip"]),
              help="An image that cannot be read: write nothing, or leave it out and list it in the manifest.")
@click.option("--max-megapixels", default=500, show_default=True, type=click.IntRange(min=1),
              help="A larger image counts as one that cannot be read.")
@click.option("--workers", metavar="N", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--download", is_flag=True, help="Fetch SOURCE cifar10 where it is not beside OUT (170 MB).")
@click.pass_context
def data_build(context, source, out, **options):
    """Write the images of SOURCE into one file OUT.beton, and what it holds into OUT.json.

    \b
    SOURCE is one of
      a folder            class folders (cat/1.jpg), also below train/ and test/, or flat
      .zip .tar .tar.xz   an archive of such a folder (.tar.gz and .tar.bz2 too)
      .parquet            a file or a folder of them, as on the Hugging Face hub
      .npz .npy           arrays: images uint8, labels whole numbers
      cifar10             CIFAR-10's Python archive; a path to it or to its folder works too
      digits              scikit-learn's 1,797 handwritten digits; then OUT is a folder, and no options

    Images are cropped as DiT's training does: the middle square, scaled to --size. A build that was stopped goes on where it was.

    \b
    Examples:
      ditscale data build digits data/digits
      ditscale data build imagenet/train data/imagenet256.beton
      ditscale data build cifar10 data/cifar10.beton --download --split train --size 32
    """
    from pathlib import Path

    if source == "digits":
        given = [name for name in options if context.get_parameter_source(name).name != "DEFAULT"]
        if given:
            raise UserError(f"digits takes no options; leave out --{given[0].replace('_', '-')}")
        return _build_digits(out)

    from ditscale.data.build import build_images
    from ditscale.data.sources.cifar10 import downloaded

    if source == "cifar10":
        source = downloaded(Path(out).parent, allowed=options["download"])
    elif options["download"]:
        raise UserError(f"--download fetches cifar10 alone; {source} is read where it is")
    click.echo(build_images(source, out, size=options["size"], channels=int(options["channels"]), labels=options["labels"],
                            split=options["split"], skip_errors=options["on_error"] == "skip", workers=options["workers"],
                            max_pixels=options["max_megapixels"] * 1_000_000))


def _build_digits(folder) -> None:
    """The digits, a held-out part, and the feature network of fd_digits_cnn."""
    from pathlib import Path

    from ditscale.data.digits import build_digits

    click.echo(build_digits(folder))
    weights = Path(folder) / "digits_cnn.safetensors"
    if not weights.exists():
        from ditscale.evaluation.digits_cnn import train_digits_cnn

        accuracy = train_digits_cnn(Path(folder) / "train.beton", Path(folder) / "heldout.beton", weights)
        click.echo(f"{weights}: feature network trained, {accuracy:.1%} of the held-out digits right")


@data.command("encode")
@click.argument("pixels", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--vae", "vae_name", required=True, help="AutoencoderKL or AutoencoderTiny of diffusers: a folder, or a hub name.")
@click.option("--bits", default="fp16", show_default=True, type=click.Choice(["fp16", "bf16"]), help="How moments are stored.")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(min=1), help="Images encoded at once.")
@click.option("--device", help="cpu, cuda:0, ...  [default: this rank's GPU, else the CPU]")
def data_encode(pixels, out, vae_name, bits, batch, device):
    """Encode the images of PIXELS, and their flips, into the latent file OUT. Stopped, it goes on where it was.

    On several GPUs: torchrun --nproc_per_node 8 --no-python ditscale data encode ...
    """
    from ditscale.data.encode import encode
    from ditscale.data.vae import default_device, load_vae

    encode(pixels, out, load_vae(vae_name, device or default_device()), bits=bits, batch=batch, say=click.echo)


@data.command("inspect")
@click.argument("path", metavar="FILE", type=click.Path())
@click.option("--grid", metavar="OUT.png", type=click.Path(), help="Draw 64 of its images.")
@click.option("--vae", "vae_name", help="The autoencoder that made the latents, to draw them.")
@click.option("--verify", "verifies", is_flag=True, help="Read everything and compare it with the manifest.")
def data_inspect(path, grid, vae_name, verifies):
    """Say what is in the .beton FILE: fields, manifest, classes."""
    from ditscale.data import inspect

    click.echo("\n".join(inspect.describe(path)))
    if verifies:
        click.echo(inspect.verify(path))
    if grid:
        from ditscale.data.vae import load_vae

        click.echo(inspect.save_grid(path, grid, load_vae(vae_name, "cpu") if vae_name else None))


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
@click.argument("run", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--images", metavar="N", type=int, help="The checkpoint at so many images.  [default: the newest]")
@click.option("--average", default="ema", show_default=True, metavar="NAME",
              help="ema, ema-decay-0.999, ema-power-0.05 (what the run keeps), or masters: the last weights.")
def export(run, target, images, average):
    """Write a run's averaged weights for inference into TARGET.safetensors; training-only parts are left out."""
    from pathlib import Path

    from ditscale.rundir import RunDir
    from ditscale.training.weights import pick_checkpoint, saved_average, write_weights

    run = RunDir(run)
    checkpoint = pick_checkpoint(run, images)
    weights = saved_average(run, checkpoint, average)
    count = write_weights(run, weights, Path(target), {"checkpoint": checkpoint.name, "average": average})
    click.echo(f"{target}: {count:,} parameters, {average} of {checkpoint.name}")


@main.command()
@click.argument("run", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--length", required=True, type=float, help="Of the average, relative to the training time (EDM2's sigma_rel).")
@click.option("--images", metavar="N", type=int, help="At the checkpoint at so many images.  [default: the newest]")
def ema(run, target, length, images):
    """Rebuild an average of any length after training, from the tracks that RUN kept (train.ema_lengths), as EDM2 does.

    \b
    Example: a run with train.ema_lengths=[0.05, 0.1]
      ditscale ema runs/study/run-id ema-0.07.safetensors --length 0.07
    """
    from pathlib import Path

    from ditscale.rundir import RunDir
    from ditscale.training.checkpoint import images_of
    from ditscale.training.weights import pick_checkpoint, rebuild, write_weights

    run = RunDir(run)
    at = images_of(pick_checkpoint(run, images))
    weights, missed = rebuild(run, length, at)
    count = write_weights(run, weights, Path(target), {"length": length, "images": at, "missed": missed})
    click.echo(f"{target}: {count:,} parameters, length {length:g} at {at:,} images, its profile missed by {missed:.2%}")


@main.command()
def doctor():
    """Say what this machine can do, what is missing, and the command that would mend it."""
    from ditscale.doctor import examine, show

    if not show(examine()):
        sys.exit(1)
