"""Checks with one request whether the Hugging Face hub can be reached; its own client would retry for most of a minute."""

import logging
import warnings
from contextlib import contextmanager

from ditscale.errors import first_line

SECONDS = 5.0                                                                  # for the hub to answer one request


def why_not() -> str:
    """Why the hub cannot be reached, in words; "" if it can. Any answer counts, even an error status."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so the Hugging Face hub is not asked"
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:                                                 # of its client's library, which has changed between versions
        return f"the Hugging Face hub could not be reached ({first_line(error)})"
    return ""


@contextmanager
def silenced():
    """Suppresses warnings and logs of the hub's client and diffusers: the caller reports the result in one line."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "diffusers")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)
