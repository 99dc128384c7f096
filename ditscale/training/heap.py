"""glibc's heap when training on a CPU: whether freed memory returns to the kernel or stays for the next step.

By default each large tensor is mapped when it is made and unmapped when it is freed, and the kernel allocates and clears every
page again one step later, which takes a tenth of a step of DiT-S/8. Without glibc nothing is changed.
"""

import ctypes

TRIM_THRESHOLD, MMAP_MAX, MMAP_THRESHOLD = -1, -4, -3                          # glibc's numbers for mallopt
NEVER = -1
DEFAULT_MAPS, SMALL = 65536, 1 << 17                                           # glibc's own limits


def keep_freed() -> None:
    """For training: freed memory stays with the process, which stays at its peak size."""
    _set(MMAP_MAX, 0)
    _set(TRIM_THRESHOLD, NEVER)


def give_back_freed() -> None:
    """For measuring memory: large blocks are returned when freed, so the size of the process is what it uses.

    Call it before anything large is allocated: free blocks already in the heap are reused first and not returned.
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
