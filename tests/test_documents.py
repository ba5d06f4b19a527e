"""The documents name files, functions and variables that exist, and their links have targets."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
FOLDERS = ("bench", "csrc", "docs", "kernels", "python", "tests", "tools")
SOURCES = [
    Path(folder, name)
    for top in FOLDERS
    for folder, _, names in os.walk(ROOT / top)
    for name in names
    if not {"__pycache__", "_skbuild"} & set(Path(folder).parts)
]
of_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def _anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@of_each_page
def test_every_link_has_a_target(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in _anchors(target), f"{page}: {link}"


def _files(name: str) -> list[Path]:
    """Sources whose path ends in this name."""
    return [path for path in SOURCES if str(path).endswith("/" + name)]


@of_each_page
def test_every_source_file_and_name_in_it_exists(page):
    text = page.read_text(encoding="utf-8")
    example = re.search(r"\bexample is `(\w+)`", text)
    for span in re.findall(r"`([^`\n]+)`", text):
        if example and example[1] in span:  # the reader writes it
            continue
        if not (match := re.fullmatch(r"([\w./-]+\.(?:py|inc|cpp|cuh|cu|h|js))(?:::(\w+))?", span)):
            continue
        name, inside = match.groups()
        files = _files(name)
        assert files, f"{page}: `{name}` is no file here"
        if inside:
            sources = [path.read_text(encoding="utf-8") for path in files]
            assert any(re.search(rf"\b{inside}\b", source) for source in sources), f"{page}: `{span}`"


@pytest.fixture(scope="module")
def variables() -> set[str]:
    """Environment variables that the code reads."""
    texts = (path.read_text(encoding="utf-8") for path in SOURCES if path.suffix in (".py", ".cpp", ".h"))
    return {name for text in texts for name in re.findall(r"MONOSEM_[A-Z0-9]+(?:_[A-Z0-9]+)*", text)}


@of_each_page
def test_every_environment_variable_is_read_somewhere(page, variables):
    named = set(re.findall(r"`(MONOSEM_[A-Z0-9_]+)", page.read_text(encoding="utf-8")))
    assert named <= variables, named - variables
