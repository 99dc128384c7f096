"""The command of a figure. ``ditscale figure NAME`` and ``python analysis/NAME.py`` both run the file's ``SCRIPT``.

Every command takes ``<study directory or CSV> [--out DIR] [--where column=value ...]``. ``--where`` selects rows, so that a
study with two kinds of score or two variants can be drawn one at a time. A figure adds picture formats, published
results if it can show them, and its own options.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import click
import pandas as pd

from ditscale.errors import UserError, did_you_mean
from ditscale.figures.kit import overlay as overlays, published, study_table, style
from ditscale.studies.table.comparable import main_rows
from ditscale.studies.table.conditions import where

STUDY_HELP = ("STUDY is a study's directory, for example runs/digits-demo; FILE.csv is the output of `ditscale collect`, or published results, "
              "for example analysis/published/dit_table4_all_models.csv.")
COMMON = {
    "out": {"type": click.Path(path_type=Path), "metavar": "DIR",
            "help": "Where the files go.  [default: STUDY/analysis, or for a CSV NAME-analysis in the working directory]"},
    "where": {"multiple": True, "metavar": "COLUMN=VALUE", "help": "Keep only these rows; can be repeated."},
}
FORMAT = {"format": {"default": ",".join(style.DEFAULT_FORMATS), "show_default": True, "metavar": "KIND[,KIND]",
                     "help": f"One or more of {', '.join(style.FORMATS)}."}}
OVERLAY = {
    "published": {"is_flag": False, "flag_value": ",".join(published.TABLES), "metavar": "[TABLE[,TABLE]]",
                  "help": f"Also draw published FIDs of {', '.join(published.TABLES)}; without a name, all of them."},
    "unverified": {"is_flag": True, "help": "Also draw results without a verified source, marked with a dagger."},
}


@dataclass(frozen=True)
class Script:
    """Reads the rows of a study, writes files from them, prints their paths.

    Args:
        doc: the file's docstring; its first paragraph is the help.
        make: ``(table, arguments, output directory) -> paths written``.
        options: specific to this command: ``{name: arguments of click.Option}``.
        rows: the function that reads the table; default ``study_table.read``, one row per evaluation.
        every_metric: keep validation losses as well as scores if ``--where`` names no metric.
    """

    doc: str
    make: Callable[[pd.DataFrame, SimpleNamespace, Path], list[Path]]
    options: dict[str, dict] = field(default_factory=dict)
    rows: Callable[[Path], pd.DataFrame] | None = None
    every_metric: bool = False

    def command(self, name: str | None = None) -> click.Command:
        """The click command; a user's mistake raises UserError."""
        study = click.Argument(["study"], type=click.Path(path_type=Path), metavar="STUDY|FILE.csv")
        options = [click.Option([f"--{option}"], **settings) for option, settings in {**COMMON, **self.options}.items()]
        return click.Command(name, params=[study, *options], callback=lambda **values: self.run(SimpleNamespace(**values)),
                             help=f"{summary(self.doc)}\n\n{STUDY_HELP}",
                             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})

    def run(self, arguments: SimpleNamespace) -> None:
        """``arguments`` has the values of all options, and ``study``."""
        study = arguments.study
        out = arguments.out or (Path(f"{study.stem}-analysis") if study.is_file() else study / "analysis")
        table = where((self.rows or study_table.read)(study), arguments.where)
        if not self.every_metric and "metric" in table and not any(condition.startswith("metric=") for condition in arguments.where):
            table = main_rows(table)
        is_new = not out.exists()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {out}: {'is not a folder' if out.exists() else error.strerror}; give another") from None
        try:
            for path in self.make(table, arguments, out):
                click.echo(path)
        except UserError:
            if is_new:
                with suppress(OSError):                                        # not empty: something was drawn
                    out.rmdir()
            raise

    def main(self, argv: list[str] | None = None) -> int:
        """The body of a script in ``analysis/``; returns the exit code: 2 for a user's mistake, which is printed in one line."""
        try:
            self.command().main(argv, standalone_mode=False)
        except click.ClickException as error:
            error.show()
            raise SystemExit(error.exit_code) from None
        except click.Abort:                                                    # Ctrl-C
            raise SystemExit(130) from None
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0


def figure(doc: str, draw: Callable[..., style.Drawing], *, overlay: bool = False,
           options: dict[str, dict] | None = None, rows: Callable[[Path], pd.DataFrame] | None = None, every_metric: bool = False) -> Script:
    """The command of a picture, which has ``--format``.

    Args:
        draw: ``(table)``; with ``options`` also ``arguments``; with ``overlay`` also ``Overlay | None``, and the command
            takes ``--published``.
    """
    def make(table: pd.DataFrame, arguments: SimpleNamespace, out: Path) -> list[Path]:
        formats = _formats(arguments.format)
        more = [*([arguments] if options else []), *([_overlay(table, arguments)] if overlay else [])]
        return style.save(draw(table, *more), out, formats)

    return Script(doc, make, {**FORMAT, **(OVERLAY if overlay else {}), **(options or {})}, rows, every_metric)


def summary(doc: str) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join(doc.partition("\n\n")[0].split())


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(text.split(","))
    for kind in formats:
        if kind not in style.FORMATS:
            raise UserError(f"--format '{kind}': no such format{did_you_mean(kind, style.FORMATS) or '.'} Formats: {', '.join(style.FORMATS)}")
    return formats


def _overlay(table: pd.DataFrame, arguments: SimpleNamespace) -> overlays.Overlay | None:
    """The requested published rows. Unverified rows of a published CSV are never part of the study, only of the overlay."""
    found = [published.load(arguments.published.split(","))] if arguments.published else []
    if arguments.unverified and published.is_published(table):
        own = published.read(arguments.study)
        found.append(own[own["verified"] != published.VERIFIED])
    elif arguments.unverified and not found:
        raise UserError("--unverified needs --published: give both, for example --published mdt --unverified")
    rows = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return overlays.choose(table, rows, arguments.unverified) if len(rows) else None
