"""The same numbers every time and on every rank."""

from contextlib import contextmanager

import torch

from ditscale.device import full_fp32


@contextmanager
def reproducible():
    """Full fp32, the same algorithm for the same batch, and one CPU thread: sums that split among threads round otherwise."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    torch.set_num_threads(1)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        with full_fp32():
            yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.deterministic = before
