"""The pictures in docs/: each has its command, and none is taken of a page on which something goes wrong."""

import re
import struct
import sys
from pathlib import Path

import pytest

import monosem.cli.main as cli

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import pictures

ROOT = Path(__file__).parents[2]


def size(path):
    """Of a PNG file."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def test_every_picture_of_the_documents_is_written_at_its_size():
    shown, docs = set(), ROOT / "docs"
    for text in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs.rglob("*.md")):
        found = re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", text.read_text("utf-8"))
        shown |= {(text.parent / name).resolve().relative_to(docs).as_posix() for name in found}
    assert shown == {p.relative_to(docs).as_posix() for p in docs.rglob("*.png")}
    assert shown == {f"{name}.png" for name in pictures.PICTURES} | set(pictures.OF_HOWTOS)
    for name, picture in pictures.PICTURES.items():
        assert size(ROOT / "docs" / f"{name}.png") == picture.size


def test_each_command_runs_once_and_its_page_is_opened(browser, tmp_path, monkeypatch):
    asked = []

    def monosem(words):
        asked.append(words)
        for page in ("demo/report.html", "demo/features/index.html"):
            (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / page).write_text("<!doctype html><html data-ready='#1'><title>page</title>")
        return 0

    monkeypatch.setattr(cli, "main", monosem)
    assert pictures.main(["report", "features", "--runs", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert asked == [["demo", "--out", f"{tmp_path}/demo"], ["features", f"{tmp_path}/demo"]]
    for name in ("report", "features"):
        assert size(tmp_path / f"{name}.png") == pictures.PICTURES[name].size
    monkeypatch.setattr(cli, "main", lambda words: 2)
    assert pictures.main(["claims", "--runs", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert not (tmp_path / "claims.png").exists()


def test_a_page_with_an_error_gives_no_picture(browser, tmp_path):
    (tmp_path / "page.html").write_text("<!doctype html><script>draw.page.bos = 1</script>")
    with pytest.raises(ValueError, match="not drawn whole: ReferenceError: draw is not defined"):
        pictures.take(tmp_path / "page.html", tmp_path / "page.png", (300, 200))
    assert not (tmp_path / "page.png").exists()


def test_an_unknown_picture(capsys):
    with pytest.raises(SystemExit):
        pictures.main(["reprot"])
    assert "got reprot; wanted some of report, claims, features" in capsys.readouterr().err
