"""What the pages say of other models is true: each command is one, each function is there, no section is forgotten."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from monosem.analysis.evidence.recipes import BEYOND, RECIPES, TRAIN, WORDS
from monosem.analysis.evidence.section import Finding, Section, render_page

ALL = RECIPES | BEYOND
CAPITALS = {word for name in WORDS for word in name.split()}


def parsed(command: str) -> argparse.Namespace:
    program, verb, *rest = shlex.split(command)
    assert program == "monosem"
    parser = argparse.ArgumentParser()
    importlib.import_module(f"monosem.cli.{verb}").add_arguments(parser)
    return parser.parse_args(rest)


@pytest.mark.parametrize("command", [TRAIN, *(g.command for g in ALL.values())])
def test_commands_parse_and_their_capitals_are_explained(command):
    parsed(command)
    assert set(re.findall(r"\b[A-Z][A-Z_\d]+\b(?:\.jsonl)?", command)) <= CAPITALS


@pytest.mark.parametrize("anchor", ALL)
def test_options_that_are_named_exist(anchor):
    recipe = ALL[anchor]
    verb = recipe.command.split()[1]
    parser = argparse.ArgumentParser()
    importlib.import_module(f"monosem.cli.{verb}").add_arguments(parser)
    for option in re.findall(r"--[a-z-]+", recipe.more):
        assert option in parser.format_help(), option


@pytest.mark.parametrize("anchor", ALL)
def test_functions_exist_under_their_full_names(anchor):
    module, name = ALL[anchor].function.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), name))


def test_every_section_shows_its_command():
    root = Path(importlib.import_module("monosem").__file__).parent
    sources = [p.read_text(encoding="utf-8") for part in ("analysis", "reproduce") for p in (root / part).rglob("*.py")]
    anchors = {a for text in sources for a in re.findall(r'\bSection\(\s*(?:anchor=)?"([\w-]+)"', text)}
    assert anchors == set(ALL)
    page = render_page(
        "t",
        [Section(anchor="automata", title="A", intro="", findings=(Finding("c", "p", "o", "h"),), body="")],
        places={"RUN": "x/A-1"},
    )
    assert page.count(RECIPES["automata"].command) == 2 and RECIPES["automata"].function in page
    assert "Here: <code>x/A-1</code>" in page


def test_the_documentation_lists_every_claim():
    text = (Path(__file__).parents[3] / "docs" / "claims.md").read_text(encoding="utf-8")
    for recipe in RECIPES.values():
        assert recipe.command in text and recipe.function in text and recipe.page in text
