"""`bench/` of the checkout is a folder of scripts; its modules are imported by bare name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
