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
def written_whole(path, folder: Path | None = None):
    """Yields a path of the same name in a new folder next to ``path``, for a file or a folder; when the block ends well, it moves to ``path``.

    Missing parents of ``path`` are made. What was written reaches the disk before it gets its name, so a crash leaves no half of it. The
    name stays, as some writers (``torch.save``) store it in the file.

    Args:
        folder: where to write instead, on the same disk as ``path``.

    Raises:
        UserError: it cannot be written, or the disk is full.
    """
    path = Path(path)
    with writing(path):
        make_parents(path)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=folder or path.absolute().parent, ignore_cleanup_errors=True) as own:
            aside = Path(own) / path.name
            yield aside
            for written in [aside] if aside.is_file() else filter(Path.is_file, aside.rglob("*")):
                with open(written, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(aside, path)


def make_parents(path) -> None:
    """Makes the folders that a file or folder ``path`` is to be in.

    Raises:
        UserError: they cannot be made.
    """
    with writing(path):
        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)


def check_writable(path) -> None:
    """To be called before work that takes long and ends in a file or folder ``path``. Leaves nothing behind; missing parents can be made later.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    with writing(path):
        if path.is_file():
            open(path, "ab").close()
            return
        folder = path.absolute()
        while not folder.exists():
            folder = folder.parent
        tempfile.TemporaryFile(dir=folder).close()
