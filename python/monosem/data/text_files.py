"""The files that a text is in: one, a folder of them, those that fit a pattern, or the shipped one."""

from __future__ import annotations

import glob
from importlib.resources import files as resources
from pathlib import Path

from monosem.data.compressed import SUFFIXES
from monosem.data.csv_files import is_table
from monosem.data.parquet import MAGIC as PARQUET
from monosem.data.plain_text import is_plain_text
from monosem.data.text_spec import RICH, SAMPLE, TextSpec

# Of files in a folder, packed or not.
_KINDS = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt", ".text", ".md", ".npy")


SHIPPED = {SAMPLE: "sample_text.jsonl.xz", RICH: "sample_rich.jsonl.xz"}


def sample_path(part: str = SAMPLE) -> Path:
    """Path of a part of the shipped text (``.jsonl.xz``); its sources and licences are in SAMPLE_TEXT.md beside it.

    Args:
        part: ``"sample"``, in which kinds of text are as frequent as in the text of the shipped models, or
            ``"sample:rich"``, which holds other documents of the rare ones.

    Raises:
        FileNotFoundError: the package was installed without its assets.
    """
    path = Path(str(resources("monosem"))) / "assets" / SHIPPED[part]
    if not path.is_file():
        raise FileNotFoundError(
            f"sample text: no file {str(path)!r}; wanted the one that ships with monosem. "
            "Install the package again, or build it with `python tools/build_sample_text.py` in a checkout."
        )
    return path


def paths_of(spec: TextSpec) -> list[Path]:
    """The files of a text, in the order of their names.

    Raises:
        FileNotFoundError: no such file, or none that fits the pattern.
        ValueError: a folder without a file of text.
    """
    if spec.place in SHIPPED:
        return [sample_path(spec.place)]
    path = Path(spec.place)
    if path.is_dir():
        inside = sorted(
            p for p in path.iterdir() if p.is_file() and not p.name.startswith(".") and _suffix(p) in _KINDS
        )
        if not inside:
            raise ValueError(
                f"text: {spec.place!r} is a folder without a file of text; wanted one with files of "
                f"{', '.join(_KINDS)} (packed or not), or a file."
            )
        return inside
    if not path.exists() and glob.has_magic(spec.place):
        found = sorted(Path(p) for p in glob.glob(spec.place, recursive=True) if Path(p).is_file())
        if not found:
            raise FileNotFoundError(f"text: no file fits {spec.place!r}; wanted at least one")
        return found
    return [path]


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in SUFFIXES else path).suffix.lower()


def kind_of(path: Path) -> str:
    """``".parquet"``, ``".npy"``, ``".csv"``, ``".txt"`` or ``".jsonl"``: by its first bytes, or else by its name."""
    begin = b""
    if path.is_file():
        with path.open("rb") as opened:
            begin = opened.read(16)
    if begin.startswith(PARQUET) or (path.suffix == ".parquet" and not begin):
        return ".parquet"
    if begin.startswith(b"\x93NUMPY"):
        return ".npy"
    if is_table(path):
        return ".csv"
    return ".txt" if is_plain_text(path) else ".jsonl"
