"""The modules of this folder import one another by name: a package ``tests`` may be installed beside ours."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
