"""Shared by all tests: helpers of a folder are importable by name, and the native module must be there."""

import sys
from pathlib import Path

import pytest
import torch

from monosem.ops import backend

sys.path.insert(0, str(Path(__file__).parent))


def pytest_sessionstart(session: pytest.Session) -> None:
    if backend.native is None:
        pytest.exit(f"the compiled module is missing: {backend.native_error}. Run `make test`, which builds it.", 1)


@pytest.fixture(autouse=True)
def same_numbers_every_run() -> None:
    """Tests that draw without a generator of their own draw the same numbers every run."""
    torch.manual_seed(0)
