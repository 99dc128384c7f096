"""Sources of images: one file per kind, one interface (``base.Source``). ``open_source`` chooses by the path."""

from pathlib import Path

from ditscale.data.sources import archive, arrays, cifar10, folder, parquet
from ditscale.data.sources.base import Request, Source
from ditscale.errors import UserError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")


def open_source(path, *, labels=None, split: str | None = None, scratch, **choices) -> Source:
    """List the images of ``path``. Reads names and labels, but no pixels.

    Args:
        path: a folder, a .zip or .tar archive, a .parquet, .npz or .npy file.
        labels: a file with the class of each image, if the source does not have it.
        split: the part to use, if the source has several.
        choices: ``unlabeled``, ``first_label``, ``empty_classes``: see ``Request``.
        scratch: a folder for data that must be unpacked for random access.

    Raises:
        UserError: the path is none of these, is damaged, or is ambiguous.
    """
    path = Path(path)
    request = Request(path, None if labels is None else Path(labels), split, Path(scratch), **choices)
    if request.unlabeled and labels is not None:
        raise UserError(f"--labels {labels} with --unlabeled: give one of the two")
    try:
        return _opener(path)(request)
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None


def _opener(path: Path):
    """The function that opens this kind of source."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        if cifar10.batches_folder(path):
            return cifar10.open_cifar10
        return parquet.open_parquet if parquet.files_below(path) else folder.open_folder
    name = path.name.lower()
    if name == cifar10.ARCHIVE:
        return cifar10.open_cifar10
    if name.endswith(TARS):
        return archive.open_tar
    by_suffix = {".zip": archive.open_zip, ".parquet": parquet.open_parquet, ".npz": arrays.open_npz, ".npy": arrays.open_npy}
    if path.suffix.lower() in by_suffix:
        return by_suffix[path.suffix.lower()]
    raise UserError(f"{path}: not a source of images; give a folder, {', '.join(TARS)}, .zip, .parquet, .npz or .npy")
