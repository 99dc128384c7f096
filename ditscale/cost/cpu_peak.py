"""The speed of this machine's CPU cores, measured by a short matrix product and kept for an hour: numpy takes a sixth of a plan's time to load."""

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path

from ditscale.errors import UserError
from ditscale.writing import written_whole

KEPT_SECONDS = 3600


def cpu_flops(name: str, cores: int) -> float:
    """FLOP/s in fp32 of all these cores together. The value is that of an earlier call where one was in the last hour on this CPU, with as
    many cores and threads. After an hour it is measured again, and the faster of both counts, as other work on the machine slows a measurement.
    It is kept in ``ditscale/cpu_peak.json`` of the user's cache folder, if that can be written.

    Args:
        name: of the processor.
        cores: that this process may use.
    """
    path, now = _cache() / "ditscale" / "cpu_peak.json", time.time()
    key = " | ".join([name, f"{cores} cores", *(f"{words}={os.environ.get(words)}" for words in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"))])
    kept = _read(path).get(key)
    is_whole = isinstance(kept, list) and len(kept) == 2 and all(isinstance(value, (int, float)) for value in kept) and 0 < kept[0] < math.inf
    if is_whole and 0 <= now - kept[1] < KEPT_SECONDS:
        return float(kept[0])
    measured = max(_measured_flops(), kept[0] if is_whole else 0.0)
    with suppress(UserError, OSError), written_whole(path) as aside:
        aside.write_text(json.dumps({**_read(path), key: [measured, now]}))
    return measured


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())


def _read(path: Path) -> dict:
    """What is kept; nothing where the file is not there or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _measured_flops(size: int = 512, repeats: int = 12) -> float:
    """The best of a few products, of 2 to 8 ms each."""
    import numpy as np

    a = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
