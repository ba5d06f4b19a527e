"""Shared by all tests: helpers of a folder are importable by name, and the native module must be there."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from monosem.ops import backend

sys.path.insert(0, str(Path(__file__).parent))

import chromium

NO_BROWSER = "needs Chromium"


def pytest_sessionstart(session: pytest.Session) -> None:
    if backend.native is None:
        pytest.exit(f"the compiled module is missing: {backend.native_error}. Run `make test`, which builds it.", 1)


@pytest.fixture(autouse=True)
def same_numbers_every_run() -> None:
    """Tests that draw without a generator of their own draw the same numbers every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    """One Chromium for all tests of pages. A machine without one leaves them out; where CI is set, it must be there."""
    if chromium.BINARY is None:
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(f"{NO_BROWSER}, and CI={os.environ['CI']}: install one (`apt-get install chromium`)", False)
        pytest.skip(NO_BROWSER)
    with chromium.Chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def tab(browser: chromium.Chromium) -> Iterator[chromium.Tab]:
    """A page to work in, of this test alone. What goes wrong on it fails the test, unless that asked for ``errors``."""
    with browser.tab() as opened:
        yield opened
        assert opened.errors() == []


@pytest.fixture(scope="session")
def reproduction(tmp_path_factory: pytest.TempPathFactory):
    """A whole ``monosem reproduce`` on tiny models. Tests look at it and write beside it, not into it."""
    import tiny_reproduction

    for package in ("networkx", "sklearn", "umap"):
        pytest.importorskip(package)
    return tiny_reproduction.reproduce(tmp_path_factory.mktemp("reproduction"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    left_out = sum(NO_BROWSER in str(report.longrepr) for report in skipped)
    if left_out:
        terminalreporter.line(
            f"{left_out} tests of pages were not run: no Chromium here; `apt-get install chromium` brings one",
            yellow=True,
        )
