"""Commands that draw: ``figure NAME`` draws one figure of a study or a CSV, ``report`` writes a study's HTML page.

Each file of ``figures/plots`` is a figure; its docstring is the help text.
"""

import ast
import importlib
from pathlib import Path

import click

import ditscale
from ditscale.cli.group import Commands, collects_seldom, main
from ditscale.errors import UserError, did_you_mean

PLOTS = Path(ditscale.__file__).parent / "figures" / "plots"


class Figures(Commands):
    """The files of ``figures/plots`` as commands. Names and first lines are read without importing the files, as that takes seconds."""

    def list_commands(self, context) -> list[str]:
        return sorted(path.stem for path in PLOTS.glob("*.py") if path.stem != "__init__")

    def get_command(self, context, name: str) -> click.Command:
        if name not in (names := self.list_commands(context)):
            raise UserError(f"there is no figure '{name}'{did_you_mean(name, names) or '.'} Figures: {', '.join(names)}")
        return importlib.import_module(f"ditscale.figures.plots.{name}").SCRIPT.command(name)

    def format_commands(self, context, formatter) -> None:
        names = self.list_commands(context)
        room = formatter.width - max(map(len, names)) - 6                      # one line each
        with formatter.section("Figures"):
            formatter.write_dl([(name, click.Command(name, help=_docstring(name)).get_short_help_str(room)) for name in names])


def _docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((PLOTS / f"{name}.py").read_text(encoding="utf-8")))


@main.group(cls=Figures, subcommand_metavar="NAME STUDY|FILE.csv [OPTIONS]")
def figure():
    """Draw one figure of a study, or of a CSV of scores; `ditscale figure NAME --help` lists its options.

    \b
    Examples:
      ditscale figure training_compute runs/digits-demo
      ditscale figure gflops analysis/published/dit_table4_all_models.csv --format pdf
    """


@main.command()
@click.argument("study", metavar="STUDY", type=click.Path())
@click.option("--out", metavar="DIR", type=click.Path(file_okay=False), help="Where the files go.  [default: STUDY/analysis]")
@click.option("--where", "conditions", multiple=True, metavar="COLUMN=VALUE", help="Keep only these rows; can be repeated.")
@click.option("--price", metavar="X", type=float, help="Price per accelerator-hour: adds costs in money.")
@collects_seldom
def report(study, out, conditions, price):
    """Write report.html of a study, and every figure and table in it as files; STUDY is its folder under runs/."""
    from types import SimpleNamespace

    from ditscale.report.report import script

    words = [study, *(["--out", out] if out else []), *(f"--where={condition}" for condition in conditions),
             *([f"--price={price:g}"] if price is not None else [])]
    script(words).run(SimpleNamespace(study=Path(study), out=Path(out) if out else None, where=conditions, price=price))
