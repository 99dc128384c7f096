"""DeepSpeed's compiled ops: a run needs none of them, so none is built.

On a CPU DeepSpeed compiles an all-reduce over shared memory at the first start, minutes of it, with whatever ninja and compiler
come first in PATH. It is for inference alone: training sums gradients by torch's own collectives, on one rank and on many.
"""

from collections import defaultdict


def build_no_ops() -> None:
    """Tell DeepSpeed that none of its ops can be compiled here. Call before the process group is made.

    It spares the look for compilers too, which DeepSpeed takes when it is first asked what it could compile.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = defaultdict(bool)
