"""The browser of the tests: installed where permitted, reported where missing, required under CI."""

import os
import re
import subprocess
import sys
from pathlib import Path

import chromium
import pytest

TESTS = Path(__file__).parent
SCRIPT = TESTS.parent / "tools" / "get_browser.sh"


def without_browser(folder: Path, **changes: str) -> tuple[int, str]:
    """A file of page tests in a process that finds no Chromium: exit status and output."""
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_ADDOPTS")}
    env = kept | {"PATH": str(folder)} | changes
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no"]
    done = subprocess.run(
        [*command, str(TESTS / "analysis/evidence/test_split_map.py")],
        env=env,
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
    )
    return done.returncode, done.stdout


def test_skipped_page_tests_are_counted_at_the_end(tmp_path):
    status, output = without_browser(tmp_path)
    assert status == 0
    assert re.search(r"^3 tests of pages were not run: no Chromium here", "\n".join(output.splitlines()[-3:]), re.M), (
        output
    )
    assert "3 skipped" in output.splitlines()[-1]


def test_under_ci_a_missing_browser_is_a_failure(tmp_path):
    status, output = without_browser(tmp_path, CI="true")
    assert status == 1 and "3 errors" in output.splitlines()[-1]
    assert "needs Chromium, and CI=true" in output


@pytest.fixture
def machine(tmp_path):
    """A PATH of fake commands: ``id`` and, on request, ``apt-get``, which records its arguments."""

    def install(user: int, apt: int | None, browser: bool = False) -> str:
        commands = {"id": f"echo {user}", "timeout": 'shift; exec "$@"'}
        if apt is not None:
            commands["apt-get"] = f'echo "$@" >> {tmp_path}/asked; exit {apt}'
        if browser:
            commands["chromium"] = "exit 1"
        for name, body in commands.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        done = subprocess.run(["/bin/sh", SCRIPT], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == ""
        return done.stdout

    install.asked = lambda: (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    return install


def test_debians_chromium_is_installed_by_root(machine):
    assert machine(user=0, apt=0) == "no browser for the tests of pages: installing Debian's chromium\n"
    assert "install -y --no-install-recommends chromium" in machine.asked() and "update" not in machine.asked()


def test_a_failed_installation_is_no_error(machine):
    assert machine(user=0, apt=100).endswith("could not install chromium; going on without it\n")
    assert "update" in machine.asked()


@pytest.mark.parametrize(("user", "apt", "browser"), [(1000, 0, False), (0, None, False), (0, 0, True)])
def test_nothing_is_installed_without_root_or_need(machine, user, apt, browser):
    assert machine(user, apt, browser) == "" and machine.asked() == ""


def test_make_test_installs_the_browser():
    makefile = (TESTS.parent / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", makefile, re.M)[1]
    assert 0 < recipe.index("tools/get_browser.sh") < recipe.index("-m pytest")


def test_a_browser_that_does_not_start_reports_the_reason(tmp_path, monkeypatch):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho 'install the snap' >&2\n")
    broken.chmod(0o755)
    monkeypatch.setattr(chromium, "BINARY", str(broken))
    with pytest.raises(RuntimeError, match="ended: install the snap"):
        with chromium.Chromium(tmp_path / "profile") as browser, browser.tab():
            pass


def test_the_driver_reports_errors_of_a_page(tmp_path, tab):
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><img src='no.png'><script src='no.js'></script><script>console.error('said');"
        "Promise.reject(new Error('promised')); setTimeout(() => { throw new Error('late'); }); nothing.there</script>"
    )
    tab.open(page)
    errors = tab.errors()
    for expected in ("no.png", "no.js", "said", "promised", "late", "nothing is not defined"):
        assert sum(expected in error for error in errors) == 1, (expected, errors)
    assert len(errors) == 6 and tab.errors() == []
    page.write_text("<!doctype html><script>let top = 0;</script>")
    tab.open(page)
    assert tab.errors() == ["SyntaxError: Identifier 'top' has already been declared"]
