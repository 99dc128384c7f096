"""The console that commands print to."""

from rich.console import Console

NARROW, WIDE = 120, 200                                                        # columns that most terminals can show; of whole tables and sentences


def console(pipe_columns: int = WIDE) -> Console:
    """Of the terminal's width, or of ``pipe_columns`` if the output is a pipe: rich's own 80 would break lines that others read."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=pipe_columns)
