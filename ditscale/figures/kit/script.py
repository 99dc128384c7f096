"""The command line of a figure: ``study_table``'s, the formats of its pictures, and published results beside it."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ditscale.errors import UserError, did_you_mean
from ditscale.figures.kit import beside as beside_rows, published, study_table, style


def run_figure(description: str, draw: Callable[..., style.Drawing], argv: list[str] | None, beside: bool = False,
               also: Callable[[pd.DataFrame, Path], list[Path]] = lambda table, out: [], options: dict[str, dict] | None = None,
               rows: Callable[[Path], pd.DataFrame] | None = None) -> int:
    """The body of a figure's ``main``.

    Args:
        draw: ``(table)``; with ``options`` then ``arguments``; with ``beside`` then ``beside_rows.Beside | None``, and the script
            takes ``--published``.
        also: ``(table, output directory) -> paths``: further files that the script writes.
        options: arguments of this script alone, ``{name: what add_argument takes}``.
        rows: what reads the table; default ``study_table.read``, a row an evaluation.

    Returns:
        the exit code: 2 where the user has something to mend, told in one line.
    """
    parser = study_table.new_parser(description)
    parser.add_argument("--format", default=",".join(style.DEFAULT_FORMATS), metavar="KIND[,KIND]",
                        help=f"of {', '.join(style.FORMATS)}; %(default)s without it")
    if beside:
        parser.add_argument("--published", nargs="?", const=",".join(published.TABLES), metavar="TABLE[,TABLE]",
                            help=f"draw published FIDs beside: of {', '.join(published.TABLES)}; all without a name")
        parser.add_argument("--unverified", action="store_true", help="also those that no source was seen for, marked with a dagger")

    for name, option in (options or {}).items():
        parser.add_argument(f"--{name}", **option)

    def make(table: pd.DataFrame, arguments: argparse.Namespace, out: Path) -> list[Path]:
        formats = _formats(arguments.format)
        more = [*([arguments] if options else []), *([_beside(table, arguments)] if beside else [])]
        drawing = draw(table, *more)
        return [*style.save(drawing, out, formats), *also(table, out)]

    return study_table.run(parser, make, argv, rows)


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(text.split(","))
    for kind in formats:
        if kind not in style.FORMATS:
            raise UserError(f"--format '{kind}': no such format{did_you_mean(kind, style.FORMATS) or '.'} Formats: {', '.join(style.FORMATS)}")
    return formats


def _beside(table: pd.DataFrame, arguments: argparse.Namespace) -> beside_rows.Beside | None:
    """The rows that were asked for. Of a published CSV the unverified rows are never its study: they stand beside it."""
    found = [published.load(arguments.published.split(","))] if arguments.published else []
    if arguments.unverified and published.is_published(table):
        own = published.read(arguments.study)
        found.append(own[own["verified"] != published.VERIFIED])
    elif arguments.unverified and not found:
        raise UserError("--unverified adds to --published: give that too, for example --published mdt --unverified")
    rows = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return beside_rows.choose(table, rows, arguments.unverified) if len(rows) else None
