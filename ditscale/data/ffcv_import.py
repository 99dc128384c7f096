"""Import FFCV, which is optional, without what its import does to the process."""

import functools
from contextlib import contextmanager


@functools.cache
def load_ffcv():
    """``(ditscale.data.ffcv_backend, None)``, or ``(None, reason)`` where FFCV does not import.

    Importing FFCV sets torch to one thread; the number is put back here.
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
