"""The table of docs/howto/formats.md says what the fixtures, the tests by definition and the exporters show."""

import json
import re
from pathlib import Path

from export_cases import CASES, MADE

import monosem as ms
from monosem.data.exports import WRITERS
from monosem.data.formats import FORMATS

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "formats"
COLUMNS = {
    "ReLU": "relu",
    "TopK": "topk",
    "AbsTopK": "abs_topk",
    "BatchTopK": "batch_topk",
    "JumpReLU": "jumprelu",
    "Gated": "gated",
    "Matryoshka": "matryoshka",
    "HierarchicalTopK": "hierarchical_topk",
    "GroupMax": "group_max",
    "T-ReLU": "transcoder relu",
    "T-TopK": "transcoder topk",
    "T-JumpReLU": "transcoder jumprelu",
    "T-BatchTopK": "transcoder batch_topk",
}
WRITER_OF = {
    "SAELens": "sae_lens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
    "circuit-tracer": "circuit_tracer",
}
# Their names in the files say what they were trained as; SAELens saves them as jumprelu.
SAVED_AS_ANOTHER = {"batchtopk": "batch_topk", "batchtopk_by_norm": "batch_topk", "matryoshka_batchtopk": "matryoshka"}
# Read in test_releases.py, against definitions in float64: no code that wrote or reads them is in the fixtures.
BY_DEFINITION = {
    ("circuit-tracer", "transcoder topk"),
    ("circuit-tracer", "transcoder jumprelu"),
    ("OpenAI's sparse_autoencoder", "relu"),
    ("OpenAI's sparse_autoencoder", "topk"),
}


def table():
    """Cells by format and column name."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "howto" / "formats.md").read_text().splitlines()
        if line.startswith("|") and not re.fullmatch(r"[|\- ]+", line)
    ]
    head, *body = rows
    assert head[1:] == list(COLUMNS)
    return {row[0]: dict(zip(COLUMNS.values(), row[1:], strict=True)) for row in body}


def column(cfg):
    return f"transcoder {cfg.activation}" if cfg.kind == "transcoder" else cfg.kind


def read_by_fixtures():
    found = set()
    for expected in FIXTURES.rglob("expected.pt"):
        folder, given = expected.parent, {}
        name = folder.relative_to(FIXTURES).parts[1]
        if (case := folder / "case.json").exists():
            case = json.loads(case.read_text())
            folder, given = folder / case["path"], case["given"]
        sae = ms.load(folder, **({"inputs_normalised": True} if name.endswith("layer_norm") else given))
        found.add((sae.metadata["loaded_from"]["format"], SAVED_AS_ANOTHER.get(name, column(sae.cfg))))
    return found


def written():
    """What test_export.py writes and reads again, and tests/fixtures/exports/check.py lets the libraries read."""
    format_of = {writer: name for name, writer in WRITER_OF.items()}
    return {(format_of[form], column(MADE[name]().cfg)) for form, name in CASES}


def test_the_table_is_what_the_tests_show():
    read, wrote = read_by_fixtures(), written()
    assert set(WRITER_OF.values()) == set(WRITERS)
    cells = table()
    refused = {form.name for form in FORMATS if form.layout.endswith("refused")}
    assert set(cells) == {form.name for form in FORMATS} - refused
    for form, row in cells.items():
        for kind, cell in row.items():
            wanted = "R" if (form, kind) in read else "r" if (form, kind) in BY_DEFINITION else ""
            if (form, kind) in wrote:
                wanted += " w" if form == "circuit-tracer" else " W"  # its own code has not read them
            assert cell == wanted.strip(), (form, kind)
