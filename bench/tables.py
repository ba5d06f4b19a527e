"""Tables and plots from stored results.

python bench/tables.py FOLDER                    FOLDER/tables.md and FOLDER/*.svg, from FOLDER/*.json
python bench/tables.py FOLDER --into README.md   also put each table between its two marks in a document:
                                                 <!-- bench train_step.laptop.topk --> … <!-- /bench -->
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train_step import best_of_peers

from monosem.bench import show
from monosem.bench.show import Table, figure
from monosem.bench.workloads import described
from monosem.data import files
from monosem.ops.memory import human_bytes

_MARK = re.compile(r"(<!-- bench (\S+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def losses_table(result: dict[str, Any]) -> Table:
    head = ["library", f"held-out MSE after {result['steps']} steps", "against monosem", "L0"]
    head += ["objective", "against monosem"]
    ours = result["rows"][0]
    rows = []
    for row in result["rows"]:
        if row["error"]:
            rows.append([f"{row['name']}: {row['error']}", *[""] * (len(head) - 1)])
            continue
        line = [row["name"], figure(row["mse"], 5), _against(row, ours, "mse"), figure(row["l0"])]
        rows.append([*line, figure(row["objective"], 5), _against(row, ours, "objective")])
    return head, rows


def _against(row: dict[str, Any], ours: dict[str, Any], name: str) -> str:
    return f"{row[name] / ours[name] - 1:+.2%}" if ours.get(name) else ""


def growth_table(result: dict[str, Any]) -> Table:
    axis = result["axis"].upper()
    names = list(dict.fromkeys(row["name"] for point in result["points"] for row in point["rows"]))
    head = [axis, "floor ms", *(f"{name} {what}" for name in names for what in ("ms", "memory"))]
    rows = []
    for point in result["points"]:
        line = [f"{point['value']:,}", figure(point["floor"]["ms"])]
        for name in names:
            row = next((row for row in point["rows"] if row["name"] == name), {})
            line += [figure(row.get("ms")) or row.get("error") or "", _bytes(row.get("peak_bytes"))]
        rows.append(line)
    return head, rows


def end_to_end_table(result: dict[str, Any]) -> Table:
    head = ["whole training run", "tokens per second", "× SAELens", "peak memory"]
    theirs = result["rows"][-1]["tokens_per_second"]
    rows = []
    for row in result["rows"]:
        if row["error"]:
            rows.append([f"{row['name']}: {row['error']}", "", "", ""])
            continue
        rate = row["tokens_per_second"]
        ratio = figure(rate / theirs) if theirs and rate else ""
        rows.append([row["name"], figure(rate), ratio, _bytes(row["peak_bytes"])])
    return head, rows


TABLES: dict[str, Callable[[dict[str, Any]], Table]] = {
    "train_step": show.step_table,
    "instruction_sets": show.step_table,
    "operations": show.operations_table,
    "losses": losses_table,
    "growth": growth_table,
    "end_to_end": end_to_end_table,
}


def title(result: dict[str, Any]) -> str:
    """Shape and machine of a measurement, in one line."""
    m = result["machine"]
    if result["what"] == "end_to_end":
        shape = f"model {result['model']}, {result['hook']}, {result['steps']} steps of N={result['n']:,}, "
        shape += f"F={result['f']:,} K={result['k']}, fp32"
    else:
        w = result["workload"]
        fixed = {"N": w["n"], "D": w["d"], "F": w["f"], "K": w["k"]}
        fixed.pop(result.get("axis", "").upper(), None)
        shape = f"{described(w)}, " + " ".join(f"{name}={value:,}" for name, value in fixed.items())
    return (
        f"{shape}. {show.machine_line(m)}; torch {m['torch']}, commit {m['commit']}, {result['made']}, load {m['load']}"
    )


def remarks(result: dict[str, Any]) -> list[str]:
    """Remarks below a table: its summary, and the differences between the steps."""
    lines = best_of_peers(result) if result["what"] == "train_step" else []
    return [*lines, *result.get("remarks", []), *show.notes(result if "rows" in result else {"rows": []})]


def terminal(result: dict[str, Any]) -> str:
    return "\n".join([title(result), show.text(TABLES[result["what"]](result)), *remarks(result)])


def document(result: dict[str, Any]) -> str:
    """The table in Markdown with its title above and its remarks below."""
    below = "".join(f"\n* {line}" for line in remarks(result))
    return f"{title(result)}.\n\n{show.markdown(TABLES[result['what']](result))}\n{below}".rstrip() + "\n"


def write(folder: Path, into: Path | None = None) -> list[Path]:
    """``tables.md`` and the plots of a folder of results; returns what was written."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    known = {name: r for name, r in results.items() if r.get("what") in TABLES}
    parts = [f"## {name}\n\n{document(result)}" for name, result in known.items()]
    files.write_text(folder / "tables.md", "# Figures\n\n" + "\n".join(parts))
    written = [folder / "tables.md"]
    if into is not None:
        files.write_text(into, fill(into.read_text(encoding="utf-8"), known))
        written.append(into)
    growths = {name: r for name, r in known.items() if r["what"] == "growth"}
    if growths:
        try:
            import plots
        except ImportError as error:
            print(f"no plots: {error}; `pip install matplotlib`")
            return written
        written += [plots.growth(result, folder / f"{name}.svg") for name, result in growths.items()]
    return written


def fill(text: str, results: dict[str, Any]) -> str:
    """Replace the text between the marks of each table that has results.

    Raises:
        ValueError: a mark names a result that is not there.
    """
    absent = [name for _, name, _ in _MARK.findall(text) if name not in results]
    if absent:
        raise ValueError(f"marks: got {absent}; wanted some of {sorted(results)}, the results in the folder")
    return _MARK.sub(lambda m: f"{m[1]}{document(results[m[2]])}{m[3]}", text)


def _bytes(count: int | None) -> str:
    return human_bytes(count) if count else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--into", type=Path, help="a Markdown file with marks")
    args = parser.parse_args()
    for path in write(args.folder, args.into):
        print(path)
