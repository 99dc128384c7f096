"""Errors that are the user's to mend: one clear line, no stack trace."""

import difflib


class UserError(ValueError):
    """A mistake in a file, a key, a value or a path. The message names it and says what would work."""


def did_you_mean(word: str, options) -> str:
    """``"; did you mean 'nano'?"`` for the nearest option, or an empty string where none is near."""
    near = difflib.get_close_matches(str(word), [str(o) for o in options], n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def first_line(error: BaseException) -> str:
    """An exception's first line, at most 200 characters of it; its type where it says nothing, as of an empty file."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class TrainingFailed(RuntimeError):
    """A run that cannot go on; the message says at how many images and why."""
