"""The command line. Each command is a few lines that call one part; heavy imports are deferred until needed."""

from ditscale.cli import data, figure, models, predict, sample, scores, stats, studies, weights  # noqa: F401  (each adds its commands to the group)
from ditscale.cli.group import main

__all__ = ["main"]
