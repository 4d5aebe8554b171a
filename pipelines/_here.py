"""Makes a script run the ``components`` next to it instead of an installed copy, also in a temporary checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
