"""Whether the Hugging Face hub can be asked: found out with one request, as its client would try for most of a minute first."""

import logging
import warnings
from contextlib import contextmanager

from ditscale.errors import first_line

SECONDS = 5.0                                                                  # for the hub to answer one request


def why_not() -> str:
    """Why the hub cannot be asked, in words; "" if it can. Any answer counts, also an error of its own."""
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
    """Without what the hub's client and diffusers warn of and log on the way: the caller says what came of it in one line."""
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
