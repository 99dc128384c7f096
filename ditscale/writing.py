"""Files that cannot be written are the user's to mend: one line, exit code 2, nothing half-written."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ditscale.errors import UserError, first_line


@contextmanager
def writing(path):
    """Turns a write error in this block (a full disk, no permission) into one line about ``path``.

    Args:
        path: the file or folder that is written, or words that name it.

    Raises:
        UserError: "PATH cannot be written: REASON".
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":   # by name: a command may not have loaded it
            raise
        raise UserError(f"{path} cannot be written: {getattr(error, 'strerror', None) or first_line(error)}") from None


@contextmanager
def written_whole(path):
    """Yields a path of the same name in a folder beside ``path``, for a file or a folder; when the block ends well, it moves to ``path``.

    The name stays, as some writers (``torch.save``) store it in the file.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    with writing(path), tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.absolute().parent) as folder:
        aside = Path(folder) / path.name
        yield aside
        os.replace(aside, path)
