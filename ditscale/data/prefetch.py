"""Batches on the training device, one ahead: the next batch is copied on a separate stream while the model computes."""

import torch

from ditscale.data.loader import Batch
from ditscale.device import is_accelerator, module_of


def on_device(batches, device: torch.device):
    """Yields the batches on ``device``. On a CPU there is nothing to copy, and FFCV's thread reads ahead already."""
    return ahead(batches, StreamCopies(device)) if is_accelerator(device) else iter(batches)


def ahead(batches, copies):
    """Yields ``copies.finish(copies.start(batch))`` for each batch, and starts the next copy before it hands one out."""
    pending = None
    for batch in batches:
        following = copies.start(batch)
        if pending is not None:
            yield copies.finish(pending)
        pending = following
    if pending is not None:
        yield copies.finish(pending)


class StreamCopies:
    """Copies through pinned memory: they do not wait for the model, and the model waits only for its own batch."""

    def __init__(self, device: torch.device):
        self.device, self.kind = device, module_of(device)
        self.stream = self.kind.Stream(device)

    def start(self, batch: Batch):
        """Queue the copy, from our own pinned memory, as the batch is reused. Torch keeps that memory until the copy is done."""
        pinned = [torch.empty_like(part, pin_memory=True).copy_(part) for part in batch]
        with self.kind.stream(self.stream):
            copied = type(batch)(*(part.to(self.device, non_blocking=True) for part in pinned))
            done = self.kind.Event()
            done.record(self.stream)
        return copied, done

    def finish(self, started) -> Batch:
        """The batch for the current stream, which waits for the copy; the memory is not reused before that stream has finished with it."""
        copied, done = started
        current = self.kind.current_stream(self.device)
        current.wait_event(done)
        for part in copied:
            part.record_stream(current)
        return copied
