"""The browser of features: a page that opens from disk, and its data in files loaded as needed."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monosem.analysis.dashboard.feature_table import FeatureTable, gather
from monosem.analysis.dashboard.prompts import read_prompt
from monosem.analysis.dashboard.records import TITLE, Counts, Records, beginning
from monosem.analysis.dashboard.search_index import WordIndex, of_examples
from monosem.analysis.index import Index, check_subject
from monosem.analysis.inputs import Subject
from monosem.analysis.report.page import embed
from monosem.analysis.unit_rows import side_of
from monosem.data import files
from monosem.data.protocols import LanguageModel, of_texts

_HERE = Path(__file__).parent
_SCRIPTS = ("state.js", "search.js", "list.js", "feature.js", "prompt.js", "main.js")
FEATURES_A_FILE = 64
_LISTED = 4  # tokens and logits in a line of the list


def write_site(
    subject: Subject,
    index: Index,
    folder: str | Path,
    *,
    prompts: Sequence[str] = (),
    counts: Counts | None = None,
    marks: Mapping[str, np.ndarray] | None = None,
    following: Mapping[int, Sequence[tuple[int, float]]] | None = None,
    title: str | None = None,
    progress: bool = True,
) -> Path:
    """Write ``index.html`` and ``data/`` into a folder; returns the page. Nothing is loaded from any network.

    Args:
        subject: the dictionary of the index.
        index: on disk, with its activations (``codes=True``).
        prompts: texts for which the pages show the features of every token.
        counts: examples on a feature's page (default: by the width).
        marks: {name: bool [rows, T]}: histograms can be coloured by these too; of several the first counts.
        following: {feature: [(next feature, figure), …]}: the automaton links.

    Raises:
        ValueError: the index is of another dictionary, or holds no activations; a prompt that does not fit the model.
    """
    check_subject(index.meta, subject, "index: it")
    folder = Path(folder)
    counts = counts or Counts.for_width(index.d_sae)
    shown = [read_prompt(subject, text) for text in prompts]
    index.codes  # noqa: B018  an index without them is refused before the long work begins
    table = gather(subject, index, progress=progress)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    records = Records(subject.model, index, table, counts, marks, following)
    search = WordIndex(64 if index.d_sae <= 1 << 14 else 256)
    titles = _write_features(records, search, folder, progress)
    for number in range(len(search.shards)):
        _write_data(folder / "data" / f"words-{number}.js", "words", number, search.shard(number))
    _write_data(folder / "data" / "summary.js", "summary", _summary(subject.model, index, table, titles))
    meta = {
        "model": index.meta["model"],
        "hook": index.meta["hook_name"],
        "kind": index.meta["kind"],
        "d_in": index.meta["d_in"],
        "d_sae": index.d_sae,
        "tokens": index.tokens,
        "sources": index.sources,
        "marks": list(marks or {}),
        "per_file": FEATURES_A_FILE,
        "shards": len(search.shards),
        "bos": subject.model.token_str(subject.model.bos_id),
        "prompts": shown,
        "automata": following is not None,
        "unit": "text" if records.of_texts else "token",
        "logits": table.logits is not None,
    }
    page = folder / "index.html"
    files.write_text(page, _page(meta, title or _title(meta)))
    return page


def _title(meta: Mapping[str, Any]) -> str:
    what = "neurons" if meta["kind"] == "neurons" else "features"
    return f"{meta['d_sae']:,} {what} of {meta['model']}{side_of(meta['kind'])}"


def _write_features(records: Records, search: WordIndex, folder: Path, progress: bool) -> list[str]:
    """Write the records; returns the beginning of the text on which each feature is strongest."""
    total, titles = records.index.d_sae, []
    with tqdm(total=total, unit="feature", desc="writing pages", disable=not progress) as bar:
        for first in range(0, total, FEATURES_A_FILE):
            content = []
            for feature in range(first, min(first + FEATURES_A_FILE, total)):
                top = records.top(feature)
                search.add(feature, of_examples(top))
                content.append(records.record(feature, top))
                titles.append(beginning(" ".join(top[0].text.split()), TITLE) if top and records.of_texts else "")
                bar.update()
            number = first // FEATURES_A_FILE
            _write_data(folder / "data" / f"features-{number}.js", "features", number, content)
    return titles


def _write_data(path: Path, *call: Any) -> None:
    """A script that hands its content to the page: a page opened from disk may load scripts, but not read files."""
    name, *values = call
    files.write_text(path, f"monosem.{name}({','.join(embed(v) for v in values)});\n")


def _summary(model: LanguageModel, index: Index, table: FeatureTable, titles: list[str]) -> dict[str, Any]:
    """Columns about all features, packed: what the list shows, sorts and filters by.

    A feature of single tokens is listed by those on which it fires, one of whole texts by its strongest.
    """
    best = table.source_r.max(1)
    tokens, heard = index.common_tokens(0 if of_texts(model) else _LISTED)
    vocabulary = [] if of_texts(model) else [model.token_str(i) for i in range(model.d_vocab)]
    name = "<u2" if len(vocabulary) < 1 << 16 else "<i4"  # −1, no token, becomes 65,535, which is none either
    columns = {
        "count": index.counts.numpy().astype("<u4"),
        "max": index.maximum.numpy().astype("<f4"),
        "source": best.indices.numpy().astype("u1" if len(index.sources) <= 256 else "<u2"),
        "r": best.values.numpy().astype("<f4"),
    }
    if not of_texts(model):
        columns |= {
            "focus": (heard[:, 0] / index.counts.clamp_min(1)).numpy().astype("<f4"),
            "tokens": tokens.numpy().astype(name),
        }
    if (logits := table.logits) is not None:
        columns |= {
            "skew": logits.skewness.numpy().astype("<f4"),
            "logits": logits.top_ids[:, :_LISTED].numpy().astype(name),
        }
    return {
        "columns": {k: base64.b64encode(np.ascontiguousarray(v).tobytes()).decode() for k, v in columns.items()},
        "kinds": {k: v.dtype.str[1:] for k, v in columns.items()},
        "listed": [tokens.shape[1], 0 if logits is None else min(_LISTED, logits.top_ids.shape[1])],
        "vocabulary": vocabulary,
        "titles": titles if of_texts(model) else [],
    }


def _page(meta: Mapping[str, Any], title: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    report = _HERE.parent / "report"
    script = (report / "draw.js").read_text(encoding="utf-8")
    script += "".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    style = (report / "style.css").read_text(encoding="utf-8") + (_HERE / "site.css").read_text(encoding="utf-8")
    return environment.get_template("site.html").render(
        title=title, meta=meta, data=embed(meta), script=script, style=style, today=date.today().isoformat()
    )
