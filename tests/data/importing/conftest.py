"""Puts the folder's module of made-up latents on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
