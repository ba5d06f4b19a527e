"""Build the sample text that ships with monosem from Debian packages (Debian 12; needs apt-get, dpkg, a network).

    sudo apt-get update && python tools/build_sample_text.py

Writes ``sample_text.jsonl.xz`` (JSON lines of source and text, shuffled in a fixed order), ``SAMPLE_TEXT.md`` (sources
and licences) and ``sample_text_copyright.txt.xz`` (the packages' own copyright files) to python/monosem/assets.
The same package versions give the same bytes.
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

ASSETS = Path(__file__).resolve().parents[1] / "python" / "monosem" / "assets"
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

# Packages that hold no copyright file of their own: the same source package's is read in another.
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


def take(source: Source, folder: Path) -> list[str]:
    """The documents of one source: evenly spaced over all of them, as many as fit its share."""
    documents = list(dict.fromkeys(d.strip("\n") for d in source.read(extract.files(folder, source.patterns))))
    documents = [d for d in documents if 200 <= len(d) <= 8000]  # longer ones have no line to cut at: minified code
    sizes = [len(d.encode("utf-8")) for d in documents]
    share = min(1.0, source.kilobytes * 1000 / sum(sizes))
    return [d for i, d in enumerate(documents) if int((i + 1) * share) > int(i * share)]


def table(counts: dict[Source, tuple[int, int]], versions: dict[str, str], unpacked: int, packed: int) -> str:
    """SAMPLE_TEXT.md."""
    documents = sum(n for n, _ in counts.values())
    rows = "\n".join(
        f"| {s.name} | {n} | {size / 1000:.0f} | `{s.package}` {versions[s.package]} | {s.licence} |"
        for s, (n, size) in counts.items()
    )
    return f"""# The sample text

`sample_text.jsonl.xz`: {unpacked / 1e6:.1f} MB of text ({packed / 1e6:.1f} MB packed) in {documents} documents, one
JSON object a line, `{{"source": ..., "text": ...}}`, in a fixed shuffled order.
It is read with `monosem.data.sample.sample_documents()`.

All of it comes from Debian 12 packages and may be redistributed under the licences below.
`sample_text_copyright.txt.xz` holds the packages' own copyright files, and `apt-get source PACKAGE=VERSION` gets the
complete sources. The text is data that stands beside the program: its licences do not extend to monosem, nor
monosem's to it.

| source | documents | kB | package | licence |
|---|---|---|---|---|
{rows}

Made by `tools/build_sample_text.py`, which also writes this page.
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--debs", type=Path, help="folder of downloaded packages, kept (default: a temporary one)")
    options.add_argument("--out", type=Path, default=ASSETS, help="folder to write to")
    args = options.parse_args()
    packages = sorted({s.package for s in SOURCES})
    with tempfile.TemporaryDirectory() as temporary:
        debs, unpacked_to = args.debs or Path(temporary) / "debs", Path(temporary) / "unpacked"
        debs.mkdir(parents=True, exist_ok=True)
        versions = unpack(packages, debs.resolve(), unpacked_to)
        taken = {s: take(s, unpacked_to / s.package) for s in SOURCES}
        notices = [
            f"===== {p} {versions[p]} =====\n\n"
            + (unpacked_to / COPYRIGHT_IN.get(p, p) / f"usr/share/doc/{COPYRIGHT_IN.get(p, p)}/copyright").read_text()
            for p in packages
        ]
    records = [{"source": s.name, "text": t} for s, texts in taken.items() for t in texts]
    random.Random(0).shuffle(records)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode("utf-8")
    packed = lzma.compress(lines, preset=9 | lzma.PRESET_EXTREME)
    counts = {s: (len(t), sum(len(x.encode("utf-8")) for x in t)) for s, t in taken.items()}
    unpacked = sum(size for _, size in counts.values())
    page = table(counts, versions, unpacked, len(packed))
    print(page)
    if unpacked < MIN_UNPACKED or len(packed) > MAX_PACKED:
        raise SystemExit(
            f"{unpacked} bytes, {len(packed)} packed: wanted ≥ {MIN_UNPACKED} in ≤ {MAX_PACKED}; see SOURCES"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "sample_text.jsonl.xz").write_bytes(packed)
    (args.out / "sample_text_copyright.txt.xz").write_bytes(
        lzma.compress("\n\n".join(notices).encode("utf-8"), preset=9)
    )
    (args.out / "SAMPLE_TEXT.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
