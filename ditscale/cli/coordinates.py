"""``ditscale coordinate-check``: does one learning rate suit every width?"""

import sys

import click

from ditscale.cli.group import main
from ditscale.cli.studies import of_a_study, planned


@main.command("coordinate-check")
@of_a_study
@click.option("--widths", default="64,128,256,512", show_default=True, metavar="N,N,...", help="Three or more, with the heads of SPEC's model.")
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(min=1), help="Seeds for each width.")
@click.option("--steps", default=5, show_default=True, type=click.IntRange(min=3), help="Steps of training; the last one is judged.")
@click.option("--spectral", is_flag=True, help="Compare the spectral norms of the learned changes instead of the outputs.")
@click.option("--out", metavar="FOLDER", type=click.Path(file_okay=False), help="Write coordinate_check.csv and the figure to this folder.")
def coordinate_check(spec_path, overrides, widths, seeds, steps, spectral, out):
    """Check whether activations keep their size as the width grows, so that one learning rate suits all widths (muP).

    Trains SPEC's first model for a few steps at several widths, at train.lr without a schedule, on this machine. Exit code: 0 if no layer's
    slope is over 0.15, else 1.

    \b
    Example:
      ditscale coordinate-check SPEC model.parametrization=mup model.base_width=64
    """
    from pathlib import Path

    from rich.table import Table

    from ditscale import terminal
    from ditscale.device import local_device
    from ditscale.errors import UserError
    from ditscale.training.coordinate_check import PASSES, measure, slopes, verdict
    from ditscale.writing import check_writable

    try:
        numbers = [int(width) for width in widths.split(",")]
    except ValueError:
        raise UserError(f"--widths {widths}: give numbers with commas between, for example 64,128,256") from None
    config = planned(spec_path, overrides)[1][0].config
    if out:
        check_writable(Path(out))
    rows = measure(config, numbers, seeds=seeds, steps=steps, spectral=spectral, device=local_device(),
                   say=lambda line: click.echo(line, err=True))
    found = slopes(rows)
    table = Table()
    for name in ("layer", "at the start", f"after {rows['step'].max()} steps", "verdict"):
        table.add_column(name, justify="left" if name in ("layer", "verdict") else "right")
    for one in found:
        table.add_row(one.layer, *("-" if value != value else f"{value:+.2f}" for value in (one.at_start, one.slope)), one.verdict)
    console = terminal.console(terminal.NARROW)
    console.print(f"{config.model.parametrization} parametrization of {config.model.name}, {config.objective.name}, lr {config.train.lr:g}: "
                  "slope of log2 size against log2 width", soft_wrap=True)
    console.print(table)
    word, sentence = verdict(found)
    console.print(f"{word}: {sentence}", soft_wrap=True)
    if out:
        from ditscale.figures import coordinates
        from ditscale.figures.kit import style

        drawing = coordinates.draw(rows, found, f"Coordinate check of the {config.model.parametrization} parametrization: {word}")
        Path(out).mkdir(parents=True, exist_ok=True)
        for path in style.save(drawing, Path(out)):
            click.echo(path)
    sys.exit(0 if word == PASSES else 1)
