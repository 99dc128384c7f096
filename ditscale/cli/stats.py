"""``ditscale stats``: statistics of reference images, computed once."""

import click

from ditscale.cli.group import main


@main.command()
@click.argument("source", type=click.Path())
@click.argument("out", metavar="OUT.npz", type=click.Path())
@click.option("--extractor", "name", required=True, metavar="NAME",
              help="inception, dinov2, resnet20_cifar10, digits_cnn, or your own package.module:name.")
@click.option("--weights", metavar="PATH", type=click.Path(), help="Its weights; they are never downloaded.")
@click.option("--split", metavar="NAME", help="The part of SOURCE, if it has several, for example train and test.")
@click.option("--device", help="cpu, cuda:0, ...  [default: the GPU, else the CPU]")
def stats(source, out, name, weights, split, device):
    """Compute mean and covariance of the features of SOURCE's images, and write them to OUT.npz as a reference for scores.

    \b
    SOURCE is one of
      a folder or .zip    of image files, flat or in class folders
      .npz                ADM's: arr_0, uint8 (N, H, W, C)
      .beton              pixels, from `ditscale data build`

    ADM's evaluator and pytorch-fid can also read OUT.

    \b
    Example:
      ditscale stats imagenet/val val256.npz --extractor inception --weights inception-6726825d.pth
    """
    from ditscale.data.progress import Progress
    from ditscale.data.vae import checked_device
    from ditscale.errors import UserError, count
    from ditscale.evaluation.extractors.make import make_extractor
    from ditscale.evaluation.images import open_images
    from ditscale.evaluation.reference import is_statistics, reference_of, write_statistics
    from ditscale.evaluation.scoring import ENOUGH
    from ditscale.writing import check_writable

    if is_statistics(source):
        raise UserError(f"{source} contains statistics; give the images that they were made from")
    if not out.endswith(".npz"):
        raise UserError(f"{out}: statistics are written as .npz; name it {out}.npz")
    check_writable(out)
    extractor = make_extractor(name, weights, checked_device(device))
    images = open_images(source, split=split, channels=max(extractor.channels))
    with Progress("images", images.count) as progress:
        reference = reference_of(images, extractor, progress.advance)
    write_statistics(out, reference)
    moments = reference.moments
    click.echo(f"{out}: {count(images.count, 'image')}, {count(moments.dimensions, 'dimension')}, {name} with weights {extractor.sha256}")
    if images.count < ENOUGH * moments.dimensions:
        how = "the covariance is singular, and distances to it are far too high" if moments.is_singular else \
            "distances to it are too high"
        click.echo(f"warning: {images.count} images are too few for {moments.dimensions} dimensions: {how}; use at least "
                   f"{ENOUGH * moments.dimensions}", err=True)
