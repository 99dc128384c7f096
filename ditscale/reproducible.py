"""The same numbers every time and on every rank."""

from contextlib import contextmanager

import torch


@contextmanager
def reproducible():
    """Full fp32, the same algorithm for the same batch, and one CPU thread: sums that split among threads round otherwise."""
    threads, cudnn, matmul = torch.get_num_threads(), torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32
    torch.set_num_threads(1)
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32 = False, False, True, False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32 = before
