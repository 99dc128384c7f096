"""Commands about scores: compare, evaluate."""

import sys

import click

from ditscale.cli.group import main
from ditscale.cli.weights import as_run, heads_option, is_weights, like_option, refuse_exported, typed
from ditscale.errors import UserError


@main.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--where", "conditions", multiple=True, metavar="FIELD=VALUE",
              help="Use the evaluations with this value in their passport, for example guidance_scale=1.5.")
@click.option("--floor", type=float, metavar="E", help="With --exponent, for two validation losses at equal compute: also the effective speed-up, "
                                                       "for a loss that follows E + A C^-alpha in compute.")
@click.option("--exponent", type=float, metavar="ALPHA", help="See --floor.")
def compare(a, b, conditions, floor, exponent):
    """List the settings in which two scores differ, and test whether the gap between them is more than noise.

    \b
    A and B are each one of
      RUN or RUN@IMAGES        a run's directory: its newest evaluation, or the one at this number of images; or
                               STUDY/RUN_ID where STUDY has only a table.csv
      evals.jsonl@IMAGES       a file of evaluations
      published.csv:LINE       a row of a table of published results, by line number or model

    Evaluations that differ only in the seed of the samples count as repetitions of one score. Exit code 1: NOT COMPARABLE, the two were
    measured differently.
    """
    from ditscale.evaluation import compare as comparing
    from ditscale.studies.table.landed_side import landed_side

    wanted = {}
    for condition in conditions:
        field, equals, value = condition.partition("=")
        if not equals:
            raise UserError(f"--where '{condition}' is not of the form FIELD=VALUE, for example guidance_scale=1.5")
        wanted[field] = value
    one, other = (landed_side(text, wanted) or comparing.read_side(text, wanted) for text in (a, b))
    found = comparing.compare(one, other)
    speedup = [comparing.speedup(one, other, found, floor, exponent)] if floor is not None or exponent is not None else []
    click.echo("\n".join([*comparing.describe(one, other, found), *speedup]))
    if found.difference is None:
        sys.exit(1)


@main.command()
@click.argument("target", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--images", metavar="N", type=int, help="A run's checkpoint at this number of images.  [default: the newest]")
@click.option("--all", "whole", is_flag=True, help="All of a run's checkpoints.")
@like_option
@heads_option
@click.option("--out", metavar="FILE", type=click.Path(), help="Where the line goes for images, or a file of weights.  [default: TARGET.evals.jsonl]")
def evaluate(target, overrides, images, whole, like, heads, out):
    """Score TARGET: a run's directory, images (a folder, .zip, .npz or .beton), or a file of others' weights (see import-run).

    Keys are those of a run's section evaluation: metric, extractor_path, reference_path, also, samples, seed, sampler,
    guidance_scale, average, ... Lists of values make one evaluation per combination. Each is a line in
    the run's evals.jsonl; existing lines are not computed again. None is selected as the best. guidance=best searches
    the guidance scale on other samples than those that are scored.

    \b
    Examples:
      ditscale evaluate runs/study/run-id
      ditscale evaluate runs/study/run-id seed=[0,1,2] guidance_scale=[1,1.5,2] --all
      ditscale evaluate runs/study/run-id guidance=best guidance_search="{scales: [1, 3], samples: 5000}"
      ditscale evaluate samples/ metric=fid extractor_path=pt_inception.pth reference_path=VIRTUAL_imagenet256_labeled.npz
      torchrun --nproc_per_node 8 --no-python ditscale evaluate runs/study/run-id samples=50000
    """
    from pathlib import Path

    from ditscale.evaluation import command
    from ditscale.writing import make_parents

    if (Path(target) / "run.json").exists():
        with as_run(target, like, heads, "") as run:
            lines = command.evaluate_run(run, overrides, images, whole)
    elif is_weights(target):
        if images is not None or whole:
            raise UserError(f"--images and --all choose checkpoints, but {target} is a file of weights")
        with as_run(target, like, heads, typed("evaluate", target, *overrides, out=out, heads=heads)) as run:
            run.evals = Path(out or f"{target}.evals.jsonl")
            make_parents(run.evals)
            lines = command.evaluate_run(run, overrides, None, False)
    else:
        refuse_exported(target)
        if images is not None or whole:
            raise UserError(f"--images and --all choose checkpoints, but {target} is not a run directory (it has no run.json)")
        if like or heads:
            raise UserError(f"--like and --heads are for a file of weights, and {target} is not one")
        lines = command.evaluate_images(Path(target), overrides, out)
    _print(lines)


@main.command()
@click.argument("run", type=click.Path())
@click.option("--data", metavar="FILE.beton", type=click.Path(), help="Held-out images.  [default: the run's evaluation.validation.path]")
@click.option("--draws", metavar="N", type=int, help="Frozen draws of image, flip, noise and level.  [default: the run's, or 4096]")
@click.option("--seed", metavar="N", type=int, help="Seed of all draws; must be equal for runs that are compared.  [default: the run's, or 0]")
@click.option("--images", metavar="N", type=int, help="The checkpoint at this number of images.  [default: the newest]")
@click.option("--all", "whole", is_flag=True, help="All checkpoints.")
def validate(run, data, draws, seed, images, whole):
    """Compute the validation loss of RUN's checkpoints: the training loss on held-out images, with the same draws for every run.

    Each is a line in the run's evals.jsonl with the metric "loss"; existing lines are not computed again. `ditscale figure validation`
    draws it, and every other figure uses it instead of the score with --where metric=loss.

    \b
    Examples:
      ditscale validate runs/study/run-id --data data/heldout.beton --all
      torchrun --nproc_per_node 8 --no-python ditscale validate runs/study/run-id
    """
    from ditscale.evaluation import command

    _print(command.validate_run(run, data, draws, seed, images, whole))


def _print(lines: list[dict]) -> None:
    from ditscale import terminal
    from ditscale.evaluation import summary

    if lines:
        terminal.console().print(summary.table(lines))
