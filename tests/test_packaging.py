"""What stands in several files is the same in each."""

import re
from importlib.util import find_spec
from pathlib import Path

import monosem as ms
from monosem.analysis import metrics

ROOT = Path(__file__).parents[1]


def test_one_version():
    said = {
        re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1],
        re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1],
        ms.__version__,
    }
    assert len(said) == 1
    assert ms.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_lints_is_pinned_for_all_who_lint():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    developers = re.search(r"^dev = \[(.+)\]$", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    for tool in ("ruff", "basedpyright"):
        assert tool in pinned and f'"{tool}"' in developers


def test_type_checkers_are_told_that_the_package_has_types():
    (folder,) = find_spec("monosem").submodule_search_locations
    assert (Path(folder) / "py.typed").is_file()


def test_evaluate_is_public():
    assert ms.evaluate is metrics.evaluate
