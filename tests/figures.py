"""The committed results, and the tables of the pages that give them."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
SPEED = RESULTS / "amd-epyc-avx512-bf16-2-threads"
WITH_TABLES = ("README.md", "docs/architectures.md", "docs/benchmarks.md", "docs/design/step.md")
WITH_TABLES += ("docs/howto/accelerate.md", "docs/howto/huggingface.md", "docs/howto/language_model.md")
PAGES = {name: ROOT / name for name in WITH_TABLES}
RESULT_PAGES = ("README.md", "docs/benchmarks.md")
ZEN3, ZEN4 = RESULTS / "amd-epyc-avx2-2-threads", RESULTS / "amd-epyc-zen4-2-threads"
AMX = RESULTS / "intel-xeon-amx-2-threads"


def table(page: str, heading: str) -> list[list[str]]:
    """Cells of the table whose first row holds ``heading``, without its first two rows."""
    lines = iter(PAGES[page].read_text(encoding="utf-8").splitlines())
    assert any(line.startswith("|") and heading in line for line in lines), f"{page}: no table with {heading!r}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def result(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))
