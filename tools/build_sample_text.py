"""Build the sample text that ships with monosem from Debian packages (Debian 12; needs apt-get, dpkg, a network).

    sudo apt-get update && python tools/build_sample_text.py

Writes to python/monosem/assets: ``sample_text.jsonl.xz`` (JSON lines of source and text, shuffled in a fixed order),
which follows the mixture that the shipped models were trained on (``tools/mix_text.py``); ``sample_rich.jsonl.xz``,
which holds more of the rare kinds (``tools/sample_parts.py``); ``SAMPLE_TEXT.md`` (sources and licences) and
``sample_text_copyright.txt.xz`` (the packages' own copyright files). The same package versions give the same bytes.

``--first`` makes the text that shipped with the models ``first/A`` and ``first/B``, on which some results rest: one
part, with fixed shares of each source.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import extract_text as extract
import mix_text
import sample_parts

from monosem.data.text import Document
from monosem.data.tokenizer import load_tokenizer

ASSETS = Path(__file__).resolve().parents[1] / "python" / "monosem" / "assets"
TEXT, RICH = "sample_text.jsonl.xz", "sample_rich.jsonl.xz"
MAX_PACKED = 4_300_000
MIN_UNPACKED = 12_000_000


@dataclass(frozen=True)
class Source:
    """One label: where its text lies, how it is read, how much of it is taken, and under what licence it stands."""

    name: str
    package: str
    patterns: tuple[str, ...]
    read: Callable[[list[Path]], Iterator[str]]
    kilobytes: int
    licence: str


def _handbook(language: str, script: str | None) -> tuple:
    pages = (f"usr/share/doc/debian-handbook/html/{language}/*.html",)
    return "debian-handbook", pages, extract.html_text(script)


LIBRARY = "usr/lib/python3.11/"
WORDPRESS = "usr/share/wordpress/wp-content/languages/"
FORTUNES = "usr/share/games/fortunes/"
HANDBOOK = "GPL-2+ or CC-BY-SA-3.0"
MIT = "MIT (Expat)"

SOURCES = (
    Source("en_prose", "sword-comm-tdavid", ("usr/share/sword/**/ot.czz",), extract.sword, 2200, "public domain"),
    Source("en_bible", "sword-text-web", ("usr/share/sword/**/*.bzz",), extract.sword, 1100, "public domain"),
    Source("en_jargon", "dict-jargon", ("usr/share/dictd/jargon.dict.dz",), extract.plain, 600, "public domain"),
    Source("en_satire", "dict-devil", ("usr/share/dictd/devil.dict.dz",), extract.plain, 200, "public domain"),
    Source("en_fortunes", "fortunes",
           tuple(FORTUNES + n for n in ("art", "computers", "definitions", "linux", "science", "wisdom", "work")),
           extract.fortunes, 500, "BSD-3-Clause, public domain"),
    Source("en_docs", "python3.11-doc", ("usr/share/doc/python3.11/html/_sources/**/*.rst.txt",),
           extract.plain, 700, "PSF-2.0"),
    Source("en_docs", "cmake-data", ("usr/share/cmake-3.25/Help/**/*.rst",), extract.plain, 500, "BSD-3-Clause"),
    Source("en_docs", "git-doc", ("usr/share/doc/git-doc/*.txt",), extract.plain, 500, "GPL-2"),
    Source("code_python", "libpython3.11-stdlib", (LIBRARY + "*.py", LIBRARY + "*/*.py"),
           extract.plain, 1000, "PSF-2.0"),
    Source("code_c", "libstb-dev", ("usr/include/stb/*.h",), extract.plain, 350, "MIT or public domain"),
    Source("code_c", "libpython3.11-dev", ("usr/include/python3.11/**/*.h",), extract.plain, 350, "PSF-2.0"),
    Source("code_c", "uthash-dev", ("usr/include/*.h",), extract.plain, 80, "BSD-1-Clause"),
    Source("code_js", "node-lodash", ("usr/share/nodejs/lodash/*.js",), extract.plain, 250, MIT),
    Source("code_js", "libjs-codemirror", ("usr/share/javascript/codemirror/**/*.js",), extract.plain, 350, MIT),
    Source("html", "python3.11-doc", ("usr/share/doc/python3.11/html/library/*.html",),
           extract.raw_html, 600, "PSF-2.0"),
    Source("html", "git-doc", ("usr/share/doc/git-doc/*.html",), extract.raw_html, 300, "GPL-2"),
    Source("ar_handbook", *_handbook("ar-MA", "arabic"), 700, HANDBOOK),
    Source("ar_ui", "libreoffice-l10n-ar", ("usr/lib/libreoffice/**/*.mo",),
           extract.catalogue("arabic"), 350, "MPL-2.0"),
    Source("ar_ui", "wordpress-l10n", (WORDPRESS + "ar.mo", WORDPRESS + "admin-ar.mo"),
           extract.catalogue("arabic"), 250, "GPL-2+"),
    Source("he_ui", "libreoffice-l10n-he", ("usr/lib/libreoffice/**/*.mo",),
           extract.catalogue("hebrew"), 600, "MPL-2.0"),
    Source("he_ui", "wordpress-l10n", (WORDPRESS + "he_IL.mo", WORDPRESS + "admin-he_IL.mo"),
           extract.catalogue("hebrew"), 400, "GPL-2+"),
    Source("dna", "r-bioc-biostrings", ("usr/lib/R/site-library/Biostrings/extdata/dm3_upstream2000.fa.gz",),
           extract.fasta, 500, "Artistic-2.0"),
    Source("base64", "ca-certificates", ("usr/share/ca-certificates/mozilla/*.crt",),
           extract.certificates, 300, "MPL-2.0"),
    Source("base64", "debian-handbook", ("usr/share/doc/debian-handbook/html/en-US/images/*.png",),
           extract.encoded, 170, HANDBOOK),
    Source("base64", "git-doc", ("usr/share/doc/git-doc/*.gz",), extract.encoded, 80, "GPL-2"),
    Source("ru_handbook", *_handbook("ru-RU", "cyrillic"), 600, HANDBOOK),
    Source("ru_fortunes", "fortunes-ru",
           tuple(f"{FORTUNES}ru/{n}" for n in ("book", "education", "friendship", "knowledge")),
           extract.fortunes, 300, "GPL-2"),
    Source("zh_handbook", *_handbook("zh-CN", "chinese"), 450, HANDBOOK),
    Source("zh_poems", "fortunes-zh", (FORTUNES + "tang300", FORTUNES + "song100"), extract.fortunes, 120, "GPL-3+"),
    Source("ja_handbook", *_handbook("ja-JP", "japanese"), 450, HANDBOOK),
    Source("de_handbook", *_handbook("de-DE", None), 150, HANDBOOK),
    Source("es_handbook", *_handbook("es-ES", None), 150, HANDBOOK),
    Source("fr_handbook", *_handbook("fr-FR", None), 150, HANDBOOK),
)  # fmt: skip


def _interface(name: str, script: str, kilobytes: int) -> Source:
    """WordPress in another language."""
    language = name.removesuffix("_ui")
    return Source(
        name, "wordpress-l10n", (f"{WORDPRESS}{language}*.mo",), extract.catalogue(script), kilobytes, "GPL-2+"
    )


# The long tail of the mixture, and more of the sources above.
TAIL = (
    Source("raw_json", "iso-codes", ("usr/share/iso-codes/json/*.json",), extract.plain, 200, "LGPL-2.1+"),
    Source("raw_config", "xkb-data", ("usr/share/X11/xkb/symbols/*",), extract.plain, 150, "MIT/X11"),
    Source("id_tables", "pci.ids", ("usr/share/misc/pci.ids",), extract.plain, 150, "GPL-2+ or BSD-3-Clause"),
    Source(
        "link_lists", "publicsuffix", ("usr/share/publicsuffix/public_suffix_list.dat",), extract.plain, 60, "MPL-2.0"
    ),
    Source(
        "unicode_tables",
        "unicode-data",
        ("usr/share/unicode/UnicodeData.txt", "usr/share/unicode/Scripts.txt"),
        extract.plain,
        120,
        "Unicode",
    ),
    Source("svg_paths", "breeze-icon-theme", ("usr/share/icons/breeze/**/*.svg",), extract.plain, 120, "LGPL-3+"),
    Source("music_abc", "abcm2ps", ("usr/share/doc/abcm2ps/examples/*.abc",), extract.plain, 100, "GPL-3+"),
    Source("code_cmake", "cmake-data", ("usr/share/cmake-3.25/Modules/*.cmake",), extract.plain, 100, "BSD-3-Clause"),
    Source("code_css", "libjs-codemirror", ("usr/share/javascript/codemirror/**/*.css",), extract.plain, 60, MIT),
    *(_interface(name, "latin", 40) for name in ("pl_ui", "pt_ui", "it_ui", "tr_ui", "vi_ui", "hu_ui", "fi_ui")),
    _interface("el_ui", "greek", 80),
    _interface("uk_ui", "cyrillic", 40),
    _interface("fa_ui", "arabic", 60),
    _interface("ko_ui", "korean", 80),
    _interface("ka_ui", "georgian", 60),
    _interface("my_ui", "burmese", 60),
    _interface("th_ui", "thai", 40),
)
MORE = 4  # times the kilobytes of each source are there for the mixture to choose from
MIXED_TOKENS = 4_200_000

# Packages without a copyright file: that of another package of the same source is read.
COPYRIGHT_IN = {"libpython3.11-stdlib": "python3.11-doc", "libpython3.11-dev": "python3.11-doc"}


def unpack(packages: list[str], debs: Path, out: Path) -> dict[str, str]:
    """Download what ``debs`` lacks, unpack each package to ``out/<package>``; its versions."""
    missing = [p for p in packages if not list(debs.glob(f"{p}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=debs, check=True)
    versions = {}
    for package in packages:
        deb = next(iter(sorted(debs.glob(f"{package}_*.deb"))))
        (out / package).mkdir(parents=True)
        subprocess.run(["dpkg", "-x", deb, out / package], check=True)
        shown = subprocess.run(["dpkg-deb", "-f", deb, "Version"], check=True, capture_output=True, text=True)
        versions[package] = shown.stdout.strip()
    return versions


def take(source: Source, folder: Path, times: int = 1) -> list[str]:
    """The documents of one source: evenly spaced over all of them, as many as fit its share, or some times that."""
    documents = list(dict.fromkeys(d.strip("\n") for d in source.read(extract.files(folder, source.patterns))))
    documents = [d for d in documents if 200 <= len(d) <= 8000]  # longer ones have no line to cut at: minified code
    sizes = [len(d.encode("utf-8")) for d in documents]
    share = min(1.0, times * source.kilobytes * 1000 / sum(sizes))
    return [d for i, d in enumerate(documents) if int((i + 1) * share) > int(i * share)]


Taken = list[tuple[Source, str]]


def table(parts: dict[str, tuple[Taken, int]], versions: dict[str, str]) -> str:
    """SAMPLE_TEXT.md: of each file what it holds and how large it is packed."""
    heads, sums = [], {}
    for name, (records, packed) in parts.items():
        unpacked = sum(len(t.encode("utf-8")) for _, t in records)
        heads.append(
            f"`{name}`: {unpacked / 1e6:.1f} MB of text ({packed / 1e6:.1f} MB packed) in {len(records)} documents"
        )
        for source, text in records:
            of = sums.setdefault(source, {n: [0, 0] for n in parts})[name]
            of[0] += 1
            of[1] += len(text.encode("utf-8"))
    rows = "\n".join(
        f"| {s.name} | "
        + " | ".join(f"{n} | {size / 1000:.0f}" for n, size in of.values())
        + f" | `{s.package}` {versions[s.package]} | {s.licence} |"
        for s in SOURCES + TAIL
        if (of := sums.get(s))
    )
    columns = " | ".join(["documents | kB", *["of the rich part | kB"] * (len(parts) - 1)])
    files = " and\n".join(heads)
    rich = """
The first (`--text sample`) is a mixture in which Arabic, Hebrew, DNA and base64 are as rare as in the text of the
language models: 0.5 % of the tokens each (`tools/mixture.json`). The second (`--text sample:rich`) shares no document
with it: it is for looking at examples, and frequencies measured on it mean nothing. As everywhere, 2 % of the documents
of each source are held out, at least one: rare sources are about three times as frequent there as in the whole.
"""
    return f"""# The sample text

{files}, one
JSON object a line, `{{"source": ..., "text": ...}}`, in a fixed shuffled order.
{rich if len(parts) > 1 else ""}
All of it comes from Debian 12 packages and may be redistributed under the licences below.
`sample_text_copyright.txt.xz` holds the packages' own copyright files, and `apt-get source PACKAGE=VERSION` gets the
complete sources. The text is data that stands beside the program: its licences do not extend to monosem, nor
monosem's to it.

| source | {columns} | package | licence |
|---|{"---|---|" * len(parts)}---|---|
{rows}

Made by `tools/build_sample_text.py`, which also writes this page.
"""


def packed(records: Taken) -> bytes:
    """JSON lines in a fixed shuffled order, as xz."""
    rows = [{"source": s.name, "text": t} for s, t in records]
    random.Random(0).shuffle(rows)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode("utf-8")
    return lzma.compress(lines, preset=9 | lzma.PRESET_EXTREME)


def mixed(taken: Taken) -> dict[str, Taken]:
    """The two parts, by the name of their file."""
    documents = [Document(s.name, t) for s, t in taken]
    groups, tokenizer = mix_text.read_recipe(mix_text.RECIPE), load_tokenizer(ASSETS / "lm" / "tokenizer.json")
    natural, rich = sample_parts.two_parts(documents, groups, tokenizer, MIXED_TOKENS)
    return {TEXT: [taken[i] for i in natural], RICH: [taken[i] for i in rich]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--debs", type=Path, help="folder of downloaded packages, kept (default: a temporary one)")
    options.add_argument("--out", type=Path, default=ASSETS, help="folder to write to")
    options.add_argument("--first", action="store_true", help="the text that shipped before (give --out too)")
    args = options.parse_args()
    sources = SOURCES if args.first else SOURCES + TAIL
    packages = sorted({s.package for s in sources})
    with tempfile.TemporaryDirectory() as temporary:
        debs, unpacked_to = args.debs or Path(temporary) / "debs", Path(temporary) / "unpacked"
        debs.mkdir(parents=True, exist_ok=True)
        versions = unpack(packages, debs.resolve(), unpacked_to)
        times = 1 if args.first else MORE
        taken = [(s, text) for s in sources for text in take(s, unpacked_to / s.package, times)]
        notices = [
            f"===== {p} {versions[p]} =====\n\n"
            + (unpacked_to / COPYRIGHT_IN.get(p, p) / f"usr/share/doc/{COPYRIGHT_IN.get(p, p)}/copyright").read_text()
            for p in packages
        ]
    parts = {TEXT: taken} if args.first else mixed(taken)
    files = {name: packed(records) for name, records in parts.items()}
    page = table({name: (records, len(files[name])) for name, records in parts.items()}, versions)
    print(page)
    unpacked = sum(len(t.encode("utf-8")) for _, t in parts[TEXT])
    if unpacked < MIN_UNPACKED or len(files[TEXT]) > MAX_PACKED:
        raise SystemExit(
            f"{unpacked} bytes, {len(files[TEXT])} packed: wanted ≥ {MIN_UNPACKED} in ≤ {MAX_PACKED}; see SOURCES"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    files["sample_text_copyright.txt.xz"] = lzma.compress("\n\n".join(notices).encode("utf-8"), preset=9)
    for name, content in files.items():
        (args.out / name).write_bytes(content)
    (args.out / "SAMPLE_TEXT.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
