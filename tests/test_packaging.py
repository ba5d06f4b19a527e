"""Facts that several files repeat agree."""

import re
from importlib.util import find_spec
from pathlib import Path

import monosem as ms
from monosem.analysis import metrics

ROOT = Path(__file__).parents[1]


def test_one_version():
    versions = {
        re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1],
        re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1],
        ms.__version__,
    }
    assert len(versions) == 1
    assert ms.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_lint_tools_are_pinned_everywhere_alike():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    developers = re.search(r"^dev = \[(.+)\]$", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    for tool in ("ruff", "basedpyright"):
        assert tool in pinned and f'"{tool}"' in developers


def test_the_package_has_a_py_typed_marker():
    (folder,) = find_spec("monosem").submodule_search_locations
    assert (Path(folder) / "py.typed").is_file()


def test_evaluate_is_public():
    assert ms.evaluate is metrics.evaluate
