"""Text out of the files of Debian packages: HTML, message catalogues, fortunes, Sword modules, FASTA, base64."""

from __future__ import annotations

import base64
import gzip
import random
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

LINES = ("\n", ". ")

# Script that a paragraph must be written in to count as this language (translations leave some of it in English).
SCRIPTS = {
    "arabic": "\u0600-\u06ff",
    "hebrew": "\u0590-\u05ff",
    "cyrillic": "\u0400-\u04ff",
    "chinese": "\u4e00-\u9fff",
    "japanese": "\u3040-\u30ff\u4e00-\u9fff",
    "latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "greek": "\u0370-\u03ff",
    "korean": "\uac00-\ud7a3",
    "georgian": "\u10a0-\u10ff",
    "burmese": "\u1000-\u109f",
    "thai": "\u0e00-\u0e7f",
}


def read(path: Path) -> str:
    """A text file, gunzipped where need be; bytes that are not UTF-8 are an error."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    return raw.decode("utf-8").replace("\r\n", "\n").replace("\x0c", "\n")


def pieces(text: str, size: int = 4000, cuts: tuple[str, ...] = ("\n\n", "\n", ". ")) -> Iterator[str]:
    """Cut a text into pieces of about ``size`` characters: at blank lines, else at lines, else between sentences."""
    cut, *finer = cuts
    held: list[str] = []
    for block in text.split(cut):
        if len(block) > 1.5 * size and finer:
            yield from ([cut.join(held)] if held else [])
            held = []
            yield from pieces(block, size, tuple(finer))
            continue
        held.append(block)
        if sum(map(len, held)) >= size:
            yield cut.join(held)
            held = []
    if held:
        yield cut.join(held)


def files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """The files that match, sorted; a pattern without any is an error (the package has changed)."""
    paths: set[Path] = set()
    for pattern in patterns:
        matched = {p for p in folder.glob(pattern) if p.is_file() and not p.is_symlink()}
        if not matched:
            raise FileNotFoundError(f"{folder}: nothing matches {pattern!r}; has the package changed?")
        paths |= matched
    return sorted(paths)


def plain(paths: list[Path]) -> Iterator[str]:
    """Each file cut into pieces."""
    for path in paths:
        yield from pieces(read(path))


def raw_html(paths: list[Path]) -> Iterator[str]:
    """HTML as it stands, markup and all."""
    for path in paths:
        yield from pieces(read(path), cuts=LINES)


class _Text(HTMLParser):
    BLOCKS = set(
        [
            "p",
            "div",
            "li",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "tr",
            "dt",
            "dd",
            "pre",
            "br",
            "title",
            "ul",
            "ol",
            "dl",
            "table",
            "section",
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.skipping = self.pre = 0

    def handle_starttag(self, tag: str, attrs) -> None:
        self.skipping += tag in ("script", "style")
        self.pre += tag == "pre"
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.skipping -= tag in ("script", "style")
        self.pre -= tag == "pre"
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.skipping:
            self.parts.append(data if self.pre else re.sub(r"\s+", " ", data))


def html_text(script: str | None) -> Callable[[list[Path]], Iterator[str]]:
    """The text of HTML pages, without the lines that many pages share (navigation), in one script if one is named."""

    def extract(paths: list[Path]) -> Iterator[str]:
        pages = []
        for path in paths:
            parser = _Text()
            parser.feed(read(path))
            pages.append([line.rstrip() for line in "".join(parser.parts).split("\n")])
        shared = Counter(line for page in pages for line in set(page))
        for page in pages:
            kept = [x for x in page if x.strip() and shared[x] <= 3 and (not script or written_in(x, script))]
            yield from pieces("\n".join(x.strip() if script else x for x in kept), cuts=LINES)

    return extract


def written_in(line: str, script: str, share: float = 0.4) -> bool:
    """Whether at least ``share`` of the letters belong to a script."""
    letters = [c for c in line if c.isalpha()]
    return len(re.findall(f"[{SCRIPTS[script]}]", line)) >= max(1, share * len(letters))


def catalogue(script: str) -> Callable[[list[Path]], Iterator[str]]:
    """The translations of gettext ``.mo`` files that are written in a script: each once, shuffled, joined."""

    def extract(paths: list[Path]) -> Iterator[str]:
        messages: dict[str, None] = {}
        for path in paths:
            raw = path.read_bytes()
            order = "<" if raw[:4] == b"\xde\x12\x04\x95" else ">"
            count, _, table = struct.unpack_from(f"{order}3I", raw, 8)
            for index in range(count):
                length, at = struct.unpack_from(f"{order}2I", raw, table + 8 * index)
                for form in raw[at : at + length].decode("utf-8").split("\0"):
                    if written_in(form, script):
                        messages[form.strip()] = None
        lines = list(messages)
        random.Random(0).shuffle(lines)
        yield from pieces("\n".join(lines), 2000, LINES)

    return extract


def fortunes(paths: list[Path]) -> Iterator[str]:
    """Fortune files: entries apart by a blank line instead of ``%``, terminal colours removed."""
    for path in paths:
        entries = re.split(r"^%\s*$", re.sub(r"\x1b\[[0-9;]*m", "", read(path)), flags=re.MULTILINE)
        yield from pieces("\n\n".join(e.strip("\n") for e in entries if e.strip()), 3000)


def sword(paths: list[Path]) -> Iterator[str]:
    """A Sword module (``*.?zz`` beside ``*.?zs`` and ``*.?zv``): the entries of each block, markup removed."""
    for path in paths:
        data = path.read_bytes()
        blocks = path.with_suffix(path.suffix[:-1] + "s").read_bytes()
        entries = path.with_suffix(path.suffix[:-1] + "v").read_bytes()
        layout = "<IIH" if "ztext" in path.parts else "<III"  # block, start, size; the newer form has wide sizes
        texts = [zlib.decompress(data[a : a + n]) for a, n, _ in struct.iter_unpack("<III", blocks)]
        books: dict[int, list[str]] = {}
        for block, start, size in struct.iter_unpack(layout, entries):
            if size:
                markup = texts[block][start : start + size].decode("utf-8")
                markup = re.sub(r"<note.*?</note>|<title.*?</title>", "", markup, flags=re.DOTALL)
                markup = re.sub(r"</p>|<lb\b[^>]*>|</l>|</item>", "\n", markup)
                text = re.sub(r"[ \t]*\n\s*", "\n", re.sub(r"<[^>]*>", "", markup)).strip()
                books.setdefault(block, []).append(re.sub(r"[ \t]+", " ", text))
        for book in books.values():
            yield from pieces("\n".join(x for x in book if x), cuts=LINES)


def fasta(paths: list[Path]) -> Iterator[str]:
    """FASTA records, two a document, of every third the sequence alone in capitals."""
    for path in paths:
        records = ([h, s.replace("\n", "")] for h, _, s in (r.partition("\n") for r in read(path).split(">")[1:]))
        chosen = [r for i, r in enumerate(records) if i % 20 == 7]
        for index in range(0, len(chosen) - 1, 2):
            pair = chosen[index : index + 2]
            folded = ["\n".join(s[i : i + 50] for i in range(0, len(s), 50)) for _, s in pair]
            if index // 2 % 3 == 2:
                yield "\n".join(folded).upper()
            else:
                yield "\n".join(f">{h}\n{s}" for (h, _), s in zip(pair, folded, strict=True))


def certificates(paths: list[Path]) -> Iterator[str]:
    """PEM certificates, two a document."""
    for index in range(0, len(paths), 2):
        yield "".join(read(p) for p in paths[index : index + 2])


def encoded(paths: list[Path]) -> Iterator[str]:
    """Base64 of binary files, 76 characters a line, the first 40 kB of each."""
    for path in paths:
        yield from pieces(base64.encodebytes(path.read_bytes()[:40_000]).decode("ascii"), cuts=LINES)
