"""Words that outlive their reader: a launcher may be gone while its ranks still save a checkpoint."""

import os
import sys


class Lasting:
    """A text stream that goes on into nothing when nobody reads it any more, where others raise BrokenPipeError."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self._into_nothing()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._into_nothing()

    def _into_nothing(self) -> None:
        """For this process's own words and for those of libraries: the descriptor itself leads elsewhere."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def outlive_readers() -> None:
    """From here on, no print of this process can end it."""
    sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)
