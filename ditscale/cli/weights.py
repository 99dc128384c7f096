"""Commands that take others' weights: import-run; and the options with which others take a file of weights in a run's place."""

import os
import shlex
import tempfile
from contextlib import contextmanager
from pathlib import Path

import click

from ditscale.cli.group import LazyChoice, main
from ditscale.errors import UserError

like_option = click.option("--like", type=LazyChoice("ditscale.models.peers:LIKES"), metavar="NAME",
                           help="Project that produced the weights: dit, sit, repa, maskdit, mdt, mdtv2.")
heads_option = click.option("--heads", metavar="N", type=click.IntRange(min=1), help="Attention heads, where the sizes are of no published model.")


@main.command("import-run")
@click.argument("weights", type=click.Path())
@click.argument("out", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@like_option
@heads_option
@click.option("--classes", metavar="N", type=click.IntRange(min=1),
              help="Number of classes, for a model without a null class.  [default: all rows of the label table but one]")
@click.option("--images-seen", metavar="N", type=click.IntRange(min=0), help="In training, if you know it.")
@click.option("--part", metavar="NAME", help="Which state dict of a file that holds several: ema, model, ...  [default: the average]")
@click.option("--decoder-heads", metavar="N", type=click.IntRange(min=1), help="Of MaskDiT.  [default: its width / 32]")
@click.option("--decoder-depth", metavar="N", type=click.IntRange(min=1), help="Of MDT version 1.  [default: 2]")
def import_run(weights, out, overrides, like, heads, classes, images_seen, part, decoder_heads, decoder_depth):
    """Make a run directory OUT of others' WEIGHTS, which sample, evaluate, export and compare take.

    WEIGHTS is a file as its project wrote it: of train.py, a bare state dict, or .safetensors. Formulation, time and sampler become
    that project's; what was taken from where is printed and kept in OUT/run.json. KEY=VALUE changes a key of sampling, or of the config.

    \b
    Examples:
      ditscale import-run DiT-XL-2-256x256.pt runs/dit-xl --like dit
      ditscale import-run SiT-XL-2-256.pt runs/sit-xl --like sit guidance_scale=1.0
      ditscale import-run 0400000.pt runs/repa --images-seen 102400000 formulation.interpolant=cosine
    """
    from ditscale.dotted import parse_override
    from ditscale.training.checkpoint.import_weights import Asked, read_import, write_run

    options = {name: value for name, value in (("decoder_heads", decoder_heads), ("decoder_depth", decoder_depth)) if value is not None}
    asked = Asked(like, heads, classes, images_seen, part, options, dict(parse_override(text, "guidance_scale=1.5") for text in overrides))
    if Path(out).exists():
        raise UserError(f"{out} already exists; give another name")
    given = {"heads": heads, "classes": classes, "images_seen": images_seen, "part": part, **options}
    imported = read_import(weights, asked, typed("import-run", weights, out, *overrides, **given))
    write_run(imported, out)
    click.echo("\n".join([*imported.lines, f"{out}: a run directory, for sample, evaluate, export and compare"]))


def typed(*words, **options) -> str:
    """A command of ditscale's as a shell takes it, with those of its options that are given."""
    given = [text for name, value in options.items() if value is not None for text in (f"--{name.replace('_', '-')}", value)]
    return shlex.join(["ditscale", *map(str, [*words, *given])])


@contextmanager
def as_run(target, like: str | None, heads: int | None, command: str):
    """Yields a run: the one in ``target``, or for as long as the command takes one of the weights in that file.

    Args:
        command: what the user typed, without ``--like``.

    Raises:
        UserError: ``like`` or ``heads`` with a run; weights that are not imported, see ``read_import``.
    """
    from ditscale.rundir import RunDir

    if not is_weights(target):
        if like or heads:
            raise UserError(f"--like and --heads are for a file of weights, and {target} is not one")
        refuse_exported(target)
        yield RunDir(target)
        return
    from ditscale.training.checkpoint.import_weights import Asked, read_import, write_run

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"{target} is a file of weights, which one process takes; for several, make a run of it first: "
                        f"`ditscale import-run {target} RUN{f' --like {like}' if like else ''}`")
    imported = read_import(target, Asked(like, heads), command)
    click.echo("\n".join(imported.lines), err=True)
    with tempfile.TemporaryDirectory(prefix="ditscale-") as folder:
        yield write_run(imported, Path(folder) / Path(target).stem)


def is_weights(target) -> bool:
    """Whether the name is that of a file of weights."""
    from ditscale.models.weights_file import SUFFIXES

    return Path(target).suffix.lower() in SUFFIXES and not Path(target).is_dir()


def refuse_exported(target) -> None:
    """Raises UserError for a folder that diffusers saved or ``ditscale export`` wrote: no run."""
    folder = Path(target)
    files = ("transformer/config.json", "model_index.json", "config.json", "model.pt")
    if not (folder / "run.json").exists() and any((folder / name).exists() for name in files):
        raise UserError(f"{target}: a folder of weights, not a run; give the run that it was exported from, or make a run of another project's: "
                        f"`ditscale convert {target} FILE.pt`, then `ditscale import-run FILE.pt RUN --like NAME`")
