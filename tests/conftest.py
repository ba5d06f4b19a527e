"""Shared by all tests: helpers of a folder are importable by name, and the native module must be there."""

import sys
from pathlib import Path

import pytest

from monosem.ops import backend

sys.path.insert(0, str(Path(__file__).parent))


def pytest_sessionstart(session: pytest.Session) -> None:
    if backend.native is None:
        pytest.exit(f"the compiled module is missing: {backend.native_error}. Run `make test`, which builds it.", 1)
