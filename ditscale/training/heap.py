"""glibc's heap when training on a CPU: whether freed memory returns to the kernel or stays for the next step.

By default each large tensor is mapped when it is made and unmapped when it is freed, and the kernel hands out and clears every
page of it again a step later: a tenth of a step of DiT-S/8. Where there is no glibc nothing is changed.
"""

import ctypes

TRIM_THRESHOLD, MMAP_MAX, MMAP_THRESHOLD = -1, -4, -3                          # glibc's numbers for mallopt
NEVER = -1
DEFAULT_MAPS, SMALL = 65536, 1 << 17                                           # glibc's own limits


def keep_freed() -> None:
    """Training's choice: what is freed stays with the process, which stays as large as it was at its peak."""
    _set(MMAP_MAX, 0)
    _set(TRIM_THRESHOLD, NEVER)


def give_back_freed() -> None:
    """To measure what training needs: what is large goes back when it is freed, and the process is as large as what it holds.

    To be called before anything large is made: a hole that the heap has kept is used first, and is not given back.
    """
    _set(MMAP_MAX, DEFAULT_MAPS)
    _set(MMAP_THRESHOLD, SMALL)
    _set(TRIM_THRESHOLD, SMALL)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _set(what: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(what, value)
