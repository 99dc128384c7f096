"""Where DeepSpeed's compiled ops are kept: in this Python environment. No torch needed."""

import os
import sys
from pathlib import Path


def extensions_dir() -> Path:
    """The folder; the user's cache, torch's own choice, where the environment cannot be written."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen)
    if os.access(sys.prefix, os.W_OK):
        return Path(sys.prefix) / "torch_extensions"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "torch_extensions"


def keep_extensions_here() -> None:
    """Call before DeepSpeed builds or loads an op.

    torch's cache is one for a user and knows an op by its name alone: two environments, each with its own DeepSpeed, would
    build the op anew in turn, 1 to 2 minutes at every start.
    """
    if os.access(sys.prefix, os.W_OK):
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(extensions_dir()))
