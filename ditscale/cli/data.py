"""``ditscale data``: build, encode, import and inspect training data, and compute features of it."""

from math import isfinite

import click

from ditscale.cli.group import Commands, main
from ditscale.errors import UserError


@main.group(cls=Commands)
def data():
    """Build, encode, import and inspect training data."""


@data.command("build")
@click.argument("source")
@click.argument("out", type=click.Path())
@click.option("--size", default=256, show_default=True, type=click.IntRange(1, 8192), help="Pixels per side.")
@click.option("--channels", default="3", show_default=True, type=click.Choice(["1", "3"]), help="1: grayscale, 3: RGB.")
@click.option("--split", metavar="NAME", help="The part of SOURCE, if it has several, for example train and test.")
@click.option("--labels", metavar="FILE", type=click.Path(),
              help="Classes of images without class folders: .csv (first line name,label), StyleGAN's and EDM's .json, ImageNet's "
                   "LOC_val_solution.csv or its devkit; .npy for arrays.")
@click.option("--unlabeled", is_flag=True, help="Accept images without labels, as class 0: unconditional training, test splits.")
@click.option("--first-label", default=0, show_default=True, metavar="N", type=click.IntRange(0, 1),
              help="The number of the first class in SOURCE.")
@click.option("--empty-classes", is_flag=True, help="Allow classes without images in this split.")
@click.option("--on-error", default="fail", show_default=True, type=click.Choice(["fail", "skip"]),
              help="An image that cannot be read: write nothing, or leave it out and list it in the manifest.")
@click.option("--max-megapixels", default=500, show_default=True, type=click.IntRange(min=1),
              help="A larger image counts as one that cannot be read.")
@click.option("--workers", metavar="N", type=click.IntRange(min=1), help="Processes.  [default: one per core]")
@click.option("--download", is_flag=True, help="Download SOURCE cifar10 if it is not next to OUT (170 MB).")
@click.pass_context
def data_build(context, source, out, **options):
    """Convert the images of SOURCE to one file OUT.beton, with its manifest OUT.json.

    \b
    SOURCE is one of
      a folder            class folders (cat/1.jpg), also below train/ and test/, or flat
      .zip .tar .tar.xz   an archive of such a folder (.tar.gz and .tar.bz2 too), or of WebDataset: key.jpg, key.cls or key.json
      a folder of .tar    WebDataset's shards, or one archive per class
      .parquet            a file or a folder of them, as on the Hugging Face hub
      .npz .npy           arrays: images uint8, labels integers
      cifar10             CIFAR-10's Python archive; a path to it or to its folder works too
      digits              scikit-learn's 1,797 handwritten digits; then OUT is a folder, and no options

    Images are cropped as DiT's training does: the middle square, scaled to --size. Rerun an interrupted command to continue where it stopped.

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
        raise UserError(f"--download works only for cifar10; {source} is read where it is")
    click.echo(build_images(source, out, size=options["size"], channels=int(options["channels"]), labels=options["labels"],
                            split=options["split"], skip_errors=options["on_error"] == "skip", workers=options["workers"],
                            max_pixels=options["max_megapixels"] * 1_000_000, unlabeled=options["unlabeled"],
                            first_label=options["first_label"], empty_classes=options["empty_classes"]))


def _build_digits(folder) -> None:
    """The digits, a held-out part, and the feature network of fd_digits_cnn."""
    from pathlib import Path

    from ditscale.data.digits import build_digits

    click.echo(build_digits(folder))
    weights = Path(folder) / "digits_cnn.safetensors"
    if not weights.exists():
        from ditscale.evaluation.extractors.digits_cnn import train_digits_cnn

        accuracy = train_digits_cnn(Path(folder) / "train.beton", Path(folder) / "heldout.beton", weights)
        click.echo(f"{weights}: feature network trained, {accuracy:.1%} of the held-out digits right")


class ChannelNumbers(click.ParamType):
    """One number, or one per channel."""

    name = "number"

    def __init__(self, above_0: bool = False):
        self._above_0 = above_0

    def convert(self, value, param, context):
        try:
            numbers = [float(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(map(isfinite, numbers)):
            self.fail(f"{value}: give one number, or one per channel separated by commas, for example 0.18215")
        if self._above_0 and min(numbers) <= 0:
            self.fail(f"{value}: is not above 0; Stable Diffusion's is 0.18215")
        return numbers[0] if len(numbers) == 1 else numbers


@data.command("encode")
@click.argument("pixels", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--vae", "vae_name", required=True, metavar="NAME",
              help="An autoencoder of diffusers: its folder, a pipeline's, a .safetensors file, or a hub name.")
@click.option("--subfolder", metavar="NAME", help="Where in --vae the autoencoder is.  [default: vae, in a pipeline]")
@click.option("--scale", metavar="S", type=ChannelNumbers(above_0=True),
              help="A model sees (latent - shift) x scale; for a .safetensors file that does not say it.")
@click.option("--shift", metavar="S", type=ChannelNumbers(), help="See --scale.")
@click.option("--bits", default="fp16", show_default=True, type=click.Choice(["fp16", "bf16"]), help="How moments are stored.")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(min=1), help="Images encoded at once.")
@click.option("--device", help="cpu, cuda:0, ...  [default: this rank's GPU, else the CPU]")
def data_encode(pixels, out, vae_name, subfolder, scale, shift, bits, batch, device):
    """Encode the images of PIXELS, and their flips, to the latent file OUT. Rerun an interrupted command to continue where it stopped.

    \b
    Classes: AutoencoderKL (Stable Diffusion, SDXL, Stable Diffusion 3, FLUX.1), AutoencoderKLFlux2,
    AutoencoderKLQwenImage, AutoencoderKLWan, AutoencoderDC (SANA), AutoencoderTiny.

    On several GPUs: torchrun --nproc_per_node 8 --no-python ditscale data encode ...
    """
    from ditscale.data.encode import check_source, encode
    from ditscale.data.vae import checked_device, load_vae

    check_source(pixels)                                                       # before the hub is asked for anything
    vae = load_vae(vae_name, checked_device(device), subfolder=subfolder)
    vae.normalize_by(scale, shift)
    encode(pixels, out, vae, bits=bits, batch=batch, say=click.echo)


@data.command("features")
@click.argument("beton", type=click.Path())
@click.option("--name", required=True, metavar="NAME", help="What runs call them: objective.with {name: repa, features: NAME}.")
@click.option("--encoder", required=True, metavar="MODULE:FUNCTION", help="A function that makes the encoder, see docs/methods.md.")
@click.option("--encoder-path", metavar="FILE", type=click.Path(), help="Its weights, given to it as path.")
@click.option("--option", "pairs", multiple=True, metavar="KEY=VALUE", help="A further argument of the function; repeat it for several.")
@click.option("--of", "pixels", metavar="PIXELS.beton", type=click.Path(), help="The pixels that BETON's latents were encoded from.")
@click.option("--pca", metavar="N", type=click.IntRange(min=1), help="Keep N principal components of the features.")
@click.option("--flips", is_flag=True, help="Also of each image's horizontal flip, for data.flip.")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(min=1), help="Images encoded at once.")
@click.option("--device", help="cpu, cuda:0, ...  [default: this rank's GPU, else the CPU]")
def data_features(beton, name, encoder, encoder_path, pairs, pixels, pca, flips, batch, device):
    """Compute an encoder's features of every image of BETON once, for REPA, into BETON's NAME.features.npy next to it.

    \b
    Examples:
      ditscale data features data/digits/train.beton --name cnn --encoder ditscale.evaluation.extractors.feature_maps:digits_cnn \\
        --encoder-path data/digits/digits_cnn.safetensors
      ditscale data features data/latents.beton --of data/imagenet256.beton --name dinov2-b --encoder my_encoders:dinov2_b --pca 64 --flips
    """
    from ditscale.data.features import features_path
    from ditscale.data.vae import checked_device
    from ditscale.dotted import parse_override
    from ditscale.objectives.auxiliary.repa.cache import Asked, make_features, said

    asked = Asked(name, encoder, dict(parse_override(pair, "size=224") for pair in pairs), encoder_path, pca, flips, batch)
    facts = make_features(beton, pixels or beton, asked, checked_device(device), click.echo)
    click.echo(said(facts, features_path(beton, name)))


@data.command("import")
@click.argument("source", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--format", metavar="NAME", help="edm2, repa, fast-dit, lightningdit, mds, safetensors or numpy.  [default: detected from the files]")
@click.option("--labels", metavar="FILE", type=click.Path(), help="Classes: .json or .csv for edm2 and repa, .npy for arrays.")
@click.option("--unlabeled", is_flag=True, help="Ignore labels: all latents are class 0.")
@click.option("--first-label", default=0, show_default=True, metavar="N", type=click.IntRange(0, 1),
              help="The number of the first class in SOURCE.")
@click.option("--empty-classes", is_flag=True, help="Allow classes without latents.")
@click.option("--holds", type=click.Choice(["samples", "mean-std", "mean-logvar"]),
              help="What the channels are: one sample, or the means followed by as many stds (or log variances).")
@click.option("--scale", metavar="S", type=ChannelNumbers(above_0=True), help="A model sees (latent - shift) x scale; one number, or one per channel.")
@click.option("--shift", metavar="S", type=ChannelNumbers(), help="See --scale.")
@click.option("--applied/--not-applied", default=None, help="Whether shift and scale have already been applied to the numbers in SOURCE.")
@click.option("--pixel-range", type=click.Choice(["-1..1", "0..1"]), help="Range of the encoded images.  [default: -1..1]")
@click.option("--key", metavar="NAME", help="The tensor, array or column with the latents, if there are several.")
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="Expected number of latents; another number is an error.")
@click.option("--vae", "vae_name", metavar="NAME", help="The autoencoder that made them, to be recorded: as in data encode.")
@click.option("--bits", default="fp16", show_default=True, type=click.Choice(["fp16", "bf16"]), help="How numbers are stored.")
def data_import(source, out, vae_name, **options):
    """Import latents that other tools encoded, from SOURCE into the latent file OUT.beton.

    \b
    edm2          EDM2's dataset_tool.py encode: a zip or a folder
    repa          REPA's vae-sd/, or the folder around it
    fast-dit      the folder of imagenet256_features/ and imagenet256_labels/
    lightningdit  a folder of latents_rankRR_shardSSS.safetensors and latents_stats.pt
    mds           MosaicML Streaming's shards with an ndarray column       these three need
    safetensors   a file or a folder of shards (N, C, H, W)                --holds --scale --shift
    numpy         an .npy, an .npz or a folder of .npy (N, C, H, W)        --applied or --not-applied

    Latents are stored unchanged; training and scoring use the scale, shift and layout in their manifest.

    \b
    Examples:
      ditscale data import img512-sd.zip data/latents.beton --format edm2
      ditscale data import latents.npy data/latents.beton --labels labels.npy --holds samples --scale 0.18215 --shift 0 --not-applied
    """
    from ditscale.data.importing import import_latents
    from ditscale.data.vae import load_vae

    load = (lambda: load_vae(vae_name, "cpu")) if vae_name else None           # when the source has been looked at
    click.echo(import_latents(source, out, load_vae=load, say=click.echo, **options))


@data.command("inspect")
@click.argument("path", metavar="FILE", type=click.Path())
@click.option("--grid", metavar="OUT.png", type=click.Path(), help="Draw 64 of its images.")
@click.option("--vae", "vae_name", help="The autoencoder that made the latents, to draw them.")
@click.option("--verify", "verifies", is_flag=True, help="Read all data and compare it with the manifest.")
def data_inspect(path, grid, vae_name, verifies):
    """Show the content of the .beton FILE: fields, manifest, classes."""
    from ditscale.data import inspect

    click.echo("\n".join(inspect.describe(path)))
    if verifies:
        click.echo(inspect.verify(path))
    if grid:
        from ditscale.data.vae import load_vae

        click.echo(inspect.save_grid(path, grid, load_vae(vae_name, "cpu") if vae_name else None))
