"""Imports FFCV, which is optional, without the side effects of its import; writes the files with it if it is installed."""

import functools
from contextlib import contextmanager
from typing import Any

import numpy as np

from ditscale.data.beton import BetonFile, field_specs, write_beton
from ditscale.errors import UserError
from ditscale.writing import written_whole


@functools.cache
def load_ffcv() -> tuple[Any, str | None]:
    """``(ditscale.data.ffcv_backend, None)``, or ``(None, reason)`` if FFCV cannot be imported.

    Importing FFCV sets torch to one thread; the number is restored here.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        with _plain_dicts():
            from ditscale.data import ffcv_backend
        return ffcv_backend, None
    # A compiled package built against other libraries fails in its own ways: ImportError, OSError, AttributeError, ...
    except Exception as error:
        return None, f"ffcv does not import: {type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        torch.set_num_threads(threads)


def build_beton(path, fields: dict[str, np.ndarray]) -> str:
    """Write arrays whose first axis runs over the samples, with FFCV or else with numpy: the bytes are the same for one array field.
    Returns the writer used, "ffcv" or "numpy".

    One-dimensional int64 arrays become integer fields, others array fields. The file appears whole or not at all.

    Raises:
        UserError: a field cannot be stored, or the file cannot be written.
    """
    field_specs(path, fields)
    ffcv_backend, _ = load_ffcv()
    if ffcv_backend is None:
        write_beton(path, fields)
        return "numpy"
    with written_whole(path) as aside:
        ffcv_backend.write_with_ffcv(aside, fields)
        try:
            BetonFile(aside)                                                   # FFCV does not notice a short write
        except UserError as error:
            raise UserError(f"{path}: FFCV did not write it completely; is the disk full? ({error})") from None
    return "ffcv"


@contextmanager
def _plain_dicts():
    """Lets FFCV make its one module-level table as a plain dict.

    ``ffcv.fields.rgb_image`` fills a ``numba.typed.Dict`` with two entries that only Python code reads. Compiling that
    dict is 4 of the 5 seconds that the import takes.
    """
    import numba.typed

    typed, numba.typed.Dict = numba.typed.Dict, dict
    try:
        yield
    finally:
        numba.typed.Dict = typed
