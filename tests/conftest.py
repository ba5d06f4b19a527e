"""Shared by all tests: helpers of a folder are importable by name, and the native module must be there."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from monosem.ops import backend

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded; read when Hugging Face's libraries are imported

import chromium
import left_out

NO_BROWSER = "needs Chromium"
CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
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
        if CI:
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
    return tiny_reproduction.reproduce(tmp_path_factory.mktemp("reproduction_in_a_folder_whose_name_no_line_can_break"))


def _left_out(config: pytest.Config) -> Counter[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return left_out.by_reason(reporter.stats.get("skipped", [])) if reporter else Counter()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where CI is set, a test that is left out for want of something that CI has to bring has failed."""
    if CI and left_out.unaccepted(_left_out(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reasons = _left_out(config)
    missing = left_out.unaccepted(reasons)
    for reason, count in reasons.most_common():
        terminalreporter.line(
            f"not run: {count:4}  {reason}" + ("  (CI has to bring this)" if CI and reason in missing else ""),
            red=CI and reason in missing,
            yellow=reason in missing,
        )
    if pages := reasons[NO_BROWSER]:
        terminalreporter.line(
            f"{pages} tests of pages were not run: no Chromium here; `apt-get install chromium` brings one",
            yellow=True,
        )
