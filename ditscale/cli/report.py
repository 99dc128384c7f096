"""The command that shows a whole study on one page."""

import click

from ditscale.cli.group import main


@main.command()
@click.argument("study", metavar="STUDY", type=click.Path())
@click.option("--out", metavar="DIR", type=click.Path(file_okay=False), help="Where the files go.  [default: STUDY/analysis]")
@click.option("--where", "conditions", multiple=True, metavar="COLUMN=VALUE", help="Keep only these rows; may be given several times.")
@click.option("--price", metavar="X", type=float, help="Money for one accelerator and one hour: costs in money too.")
def report(study, out, conditions, price):
    """Write report.html of a study, and every figure and table in it as files; STUDY is its folder under runs/."""
    from pathlib import Path
    from types import SimpleNamespace

    from ditscale.report.report import script

    words = [study, *(["--out", out] if out else []), *(f"--where={condition}" for condition in conditions),
             *([f"--price={price:g}"] if price is not None else [])]
    script(words).run(SimpleNamespace(study=Path(study), out=Path(out) if out else None, where=conditions, price=price))
