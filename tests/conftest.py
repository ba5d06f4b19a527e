"""Shared by all tests: helpers of a folder are importable by name, and the native module must be there."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from monosem.ops import backend

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded; read when Hugging Face's libraries are imported

import chromium

NO_BROWSER = "needs Chromium"
ALONE = "test_interpreter.py"  # each of its tests is a process of a minute or more
TOGETHER = ("test_pages.py", "test_reproduce.py")  # they look at one reproduction, which takes a minute or more


def pytest_sessionstart(session: pytest.Session) -> None:
    if backend.native is None:
        pytest.exit(f"the compiled module is missing: {backend.native_error}. Run `make test`, which builds it.", 1)


def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """`pytest -n 2`: the tests of a file stay together, as their fixtures do, and what takes longest comes first."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            name = Path(file).name
            return nodeid if name == ALONE else TOGETHER[0] if name in TOGETHER else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: (item.path.name not in TOGETHER, item.path.name != ALONE))


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
