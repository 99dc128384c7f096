"""Write a .beton file with FFCV where it is installed, else with numpy: the bytes are the same for one array field."""

import numpy as np

from ditscale.data.aside import written_aside
from ditscale.data.beton import BetonFile, field_specs, write_beton
from ditscale.data.ffcv_import import load_ffcv
from ditscale.errors import UserError


def build_beton(path, fields: dict[str, np.ndarray]) -> str:
    """Write arrays whose first axis runs over the samples; returns the writer used, "ffcv" or "numpy".

    One-dimensional int64 arrays become integer fields, others array fields. The file appears whole or not at all.

    Raises:
        UserError: a field cannot be stored, or the file cannot be written.
    """
    field_specs(path, fields)
    ffcv_backend, _ = load_ffcv()
    if ffcv_backend is None:
        write_beton(path, fields)
        return "numpy"
    with written_aside(path) as aside:
        ffcv_backend.write_with_ffcv(aside, fields)
        try:
            BetonFile(aside)                                                   # FFCV does not notice a short write
        except UserError as error:
            raise UserError(f"{path}: FFCV did not write it whole, is the disk full? ({error})") from None
    return "ffcv"
