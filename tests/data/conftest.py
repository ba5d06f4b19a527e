"""Tests of activations share a fake model; their child processes import it too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
