"""Every page in a real browser, light and dark; every writer of pages is registered."""

import ast
import json
import re
import shutil
from pathlib import Path

import chromium
import pytest
from page_registry import ALL, PAGES, SECTIONS

import monosem
from monosem.cli.main import main

PACKAGE = Path(monosem.__file__).parent
PHONE = 400  # pixels


@pytest.fixture(scope="module")
def pages(browser, reproduction, tmp_path_factory):
    """All pages, command by command, from the dictionaries of one reproduction."""
    folder = tmp_path_factory.mktemp("pages")
    # Without the indexes, so that every command reads the text that it is given.
    runs = shutil.copytree(reproduction.out / "dictionaries", folder / "runs", ignore=shutil.ignore_patterns("index"))
    small, first, wide, other, shuffled = (runs / name for name in ("A-0", "A-1", "A-2", "B-1", "shuffled-1"))
    few = ("--features", 3, "--neurons", 2, "--shuffled", shuffled)
    commands = {
        "demo": ("--model", reproduction.inputs / "first", "--d-sae", 48, "--k", 4, "--steps", 30),
        "evaluate": (first, "--report"),
        "profile": (first, "--steps", 3, "--batch-size", 64),
        "proxies": (first,),
        "probe": (first,),
        "neurons": (first,),
        "automata": (first, "--support", 2),
        "widths": (small, first, wide, "--tokens", 1000, "--density-tokens", 2000),
        "explain": (first, *few),
        "rate": (first, *few),
        "steer": (first, "--labels", "base64", "Arabic", "--samples", 6, "--length", 4),
        "compare": (first, other),
        "split": (small, first, wide),
        "features": (first, "--prompt", "the fox كتاب"),
    }
    for verb, words in commands.items():
        shared = ("--text", reproduction.text, "--out", folder / verb, "--quiet")
        assert main([verb, *map(str, (*words, *shared))]) == 0, verb
    _score(folder / "rate")
    shutil.copytree(reproduction.out, folder / "reproduce")
    assert {*commands, "reproduce"} == set(PAGES)
    return folder


def _score(folder):
    """Answers as the page saves them, scored."""
    key = json.loads((folder / "rate.key.json").read_text())
    steps = ("confidence", "high", "logits", "separation", "specificity")
    answers = {number: dict.fromkeys(steps, 1) for number in key["items"]}
    saved = {"format": 1, "study": key["study"], "annotator": "Ada", "answers": answers}
    (folder / "answers.json").write_text(json.dumps(saved))
    assert main(["rate", "--score", str(folder / "answers.json")]) == 0


GLOBALS = "Object.getOwnPropertyNames(window)"
SCRIPTS = """[...document.scripts].filter((s) => !s.type).map((s) => s.textContent).join('\\n')"""


@pytest.mark.parametrize(("command", "page"), ALL, ids=[f"{c}-{p.path.replace('/', '-')}" for c, p in ALL])
def test_a_page_shows_everything_that_its_data_call_for(pages, tab, command, page):
    path = pages / command / page.path
    expected = page.counts(path) | {f"section#{anchor}": 1 for anchor in page.sections}
    before = set(tab.run(GLOBALS))
    for theme in chromium.THEMES:
        tab.theme(theme)
        tab.open(path)
        assert tab.errors() == [], theme
        assert {selector: tab.count(selector) for selector in expected} == expected
        if path.suffix == ".html":
            red = tab.run("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").split(",")[0]
            assert (int(red) < 128) == (theme == "dark")
    page.visit(tab)
    assert tab.errors() == [], "its views"
    if path.suffix == ".html":
        tab.size(PHONE, 800)
        assert tab.run("document.documentElement.scrollWidth") <= PHONE, "it scrolls sideways"
        links_lead_somewhere(tab, path)
        names = {*tab.run(GLOBALS), *tab.lexical_names()} - before
        names_are_given_once(tab.run(SCRIPTS), names)


def links_lead_somewhere(tab, path):
    ids = tab.run("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert sorted(ids) == sorted(set(ids))
    views = tab.count("body[data-view]")  # there, fragments are what is shown
    for link in tab.run("[...document.querySelectorAll('a[href]')].map((a) => a.getAttribute('href'))"):
        target, _, fragment = link.partition("#")
        assert not re.match(r"[a-z]+:", link), "nothing on a page leads into the network"
        assert (path.parent / target).exists(), link
        assert target or views or fragment in ids, link


def names_are_given_once(script, names):
    """What the page's scripts know each other by is not declared again anywhere, where it would hide the other."""
    given = declared(script)
    for name in names:
        assert given.count(name) <= 1, f"two scripts of the page name {name!r}"


def declared(script):
    """Names that a script declares at whatever depth, as often as it does; parameters are left out."""
    names = re.findall(r"\b(?:function\*?|class)\s+([\w$]+)", script)
    for begun in re.finditer(r"\b(?:const|let|var)\s+", script):
        names += _names(script, begun.end())
    return names


def _names(script, at):
    """The names of one declaration: ``a = f(1, 2), { b, c: d } = e``."""
    depth, names, expected, pattern = 0, [], True, 0
    for token in re.finditer(r"[\w$]+|'[^'\n]*'|\"[^\"\n]*\"|`[^`]*`|//[^\n]*|\S|\n", script[at:]):
        t = token[0]
        if t in "([{":
            pattern = depth + 1 if expected and t != "(" else pattern
            depth += 1
        elif t in ")]}":
            depth -= 1
            if depth < 0:
                break
            if pattern > depth:
                pattern, expected = 0, False
        elif not depth and (t == ";" or t in ("of", "in")):
            break
        elif not depth and t == ",":
            expected = True
        elif re.match(r"[A-Za-z_$]", t) and expected and (not depth or pattern == depth):
            names.append(t)
            expected = bool(pattern)
    return names


def test_declared():
    assert declared("const a = f(1, b), { c, d } = e; let g; function h(i) { var j = k; }") == [
        "h",
        "a",
        "c",
        "d",
        "g",
        "j",
    ]
    assert declared("const draw = (() => { return {}; })();\n(() => { function draw(card) {} })();").count("draw") == 2


# ---- the registry
WRITING = {  # modules that make HTML or SVG files, and the function by which others have it done
    "analysis/report/page.py": "write_report",
    "analysis/evidence/section.py": "write_page",
    "analysis/evidence/rate/study.py": "write_study",
    "analysis/dashboard/site.py": "write_site",
    "analysis/evaluation_svg.py": "write_picture",
    "cli/claim.py": "write",
}


def unknown(package):
    """What the package has of pages beyond the registry: templates, writers, files, sections."""
    registered = {w for _, page in ALL for w in page.writers} | set(WRITING)
    files = {Path(page.path).name for _, page in ALL} | {p.name for p in PACKAGE.rglob("*.html")}
    out = set()
    for path in package.rglob("*.py"):
        module = path.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                makes = name.endswith("get_template") and module not in WRITING
                asks = name.split(".")[-1] in set(WRITING.values()) - {"write"} or name == "claim.write"
                if makes or (asks and module not in registered):
                    out.add(f"{module} writes a page")
                anchors = [*node.args[:1], *(k.value for k in node.keywords if k.arg == "anchor")]
                if name.split(".")[-1] == "Section" and anchors and ast.literal_eval(anchors[0]) not in SECTIONS:
                    out.add(f"{module}: section {ast.literal_eval(anchors[0])}")
            elif isinstance(node, ast.Constant) and re.fullmatch(r"[\w./-]+\.(html|svg)", str(node.value)):
                out |= {f"{module}: {node.value}"} if Path(node.value).name not in files else set()
    templates = {"template.html", "page.html", "rate.html", "site.html"}
    return out | {f"template {p.name}" for p in package.rglob("*.html") if p.name not in templates}


def test_every_writer_of_pages_is_in_the_registry():
    assert unknown(PACKAGE) == set()
    assert {a for _, page in ALL for a in page.sections} == set(SECTIONS)
    for module in {w for _, page in ALL for w in page.writers} | set(WRITING):
        assert (PACKAGE / module).is_file(), f"{module} is gone: take it out of the registry"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cli/tree.py", "from x import write_page\nwrite_page(out, 'Tree', [])\n"),
        ("cli/tree.py", "claim.write(out, 'tree', result, section, 'Tree')\n"),
        ("cli/tree.py", "files.write_text(out / 'tree.html', text)\n"),
        ("analysis/tree.py", "page = environment.get_template('page.html')\n"),
        ("analysis/evidence/tree.py", "part = Section('tree', 'Tree', intro, (), body)\n"),
        ("analysis/evidence/tree.py", "part = Section(anchor='tree', title='Tree')\n"),
        ("analysis/tree/tree.html", "<!doctype html>"),
    ],
)
def test_a_page_writer_without_a_browser_test_is_detected(tmp_path, name, content):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(content)
    assert len(unknown(tmp_path)) == 1
